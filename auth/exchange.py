"""Exchange of rate limit counters between servers on one store: each writes its own and reads the others'."""

from __future__ import annotations

import secrets

import anyio
import structlog

from storage.collection import Collection, CollectionSpec, Document, Index
from storage.errors import DocumentMissing, DuplicateKey, StoreError, VersionConflict

from .clock import Clock, now_ms
from .counts import Counts

_BY_END = Index(name="by_end", fields=("until_ms", "_id"))
COUNTS = CollectionSpec(name="rate_counts", indexes=(_BY_END,))

_INTERVAL_S = 1.0
_DEADLINE_S = 5.0
_PURGE_MS = 60_000
_MOST_SERVERS = 1000
_log = structlog.get_logger(__name__)


class Exchange:
    """Adds up the counters of several servers in the background, so that no call waits for the store.

    While the store fails, each server counts alone. A burst that is spread over several servers can exceed its limit
    by what they admit within about a second.
    """

    def __init__(self, collection: Collection, counts: Counts, *, clock: Clock = now_ms) -> None:
        """Create an exchange over a collection declared as `COUNTS`."""
        self._collection = collection
        self._counts = counts
        self._clock = clock
        self._id = secrets.token_hex(12)
        self._written: Document | None = None

    async def round(self) -> None:
        """Write this server's counters and read those of the others.

        Raises:
            StoreError: The store failed; no count is lost.
        """
        now = self._clock()
        if self._counts.changed:
            counters = self._counts.export()
            until_ms = max((counter[2] for counter in counters), default=now)
            try:
                await self._write({"_id": self._id, "version": 1, "until_ms": until_ms, "counters": counters})
            except BaseException:
                self._counts.mark_unsaved()
                raise
        documents = await self._collection.find(_BY_END, low=now + 1, limit=_MOST_SERVERS)
        others = [document for document in documents if document["_id"] != self._id]
        self._counts.set_others([counter for document in others for counter in document["counters"]])

    async def run(self, *, interval_s: float = _INTERVAL_S) -> None:
        """Exchange counters about once a second; start it in the server's task group.

        Args:
            interval_s: Seconds between two rounds.
        """
        purged_ms = 0
        while True:
            try:
                with anyio.fail_after(_DEADLINE_S):
                    await self.round()
                    if self._clock() - purged_ms >= _PURGE_MS:
                        purged_ms = self._clock()
                        await self._collection.purge(_BY_END, below=purged_ms - _PURGE_MS)
            except (StoreError, TimeoutError) as error:
                _log.warning("rate limit counters not exchanged: each server counts alone", error=str(error))
            await anyio.sleep(interval_s)

    async def _write(self, document: Document) -> None:
        try:
            if self._written is None:
                self._written = await self._collection.insert(document)
            else:
                self._written = await self._collection.replace({**document, "version": self._written["version"]})
        except (DocumentMissing, DuplicateKey, VersionConflict):
            # The document was purged, or a write that seemed to fail was applied: continue from the stored version.
            self._written = await self._collection.get(self._id)
            self._counts.mark_unsaved()
