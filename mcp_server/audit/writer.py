"""The background writer of audit records: a bounded buffer in memory that is written in batches."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import structlog

from storage.errors import DocumentMissing, InvalidDocument, StoreError, VersionConflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.collection import Collection

    from ..observability.metrics import Meters
    from .record import AuditRecord

MOST_KEPT = 10_000
_BATCH = 128
_GATHER_S = 0.2
_WRITE_S = 15.0
_RETRY_S = 1.0
_log = structlog.stdlib.get_logger("casemate.audit")


class Writer:
    """Writes records. While the store is down it buffers them; if there are too many, it drops and counts the oldest.

    Args:
        collection: The collection AUDIT.
        meters: Counts waiting, written and dropped records.
        most: The maximum number of buffered records.
    """

    def __init__(self, collection: Collection, meters: Meters, *, most: int = MOST_KEPT) -> None:
        self._collection = collection
        self._meters = meters
        self._most = most
        self._waiting: deque[AuditRecord] = deque()
        self._wake = anyio.Event()
        self._failing = False
        self._dropped = 0

    def __len__(self) -> int:
        """Return the number of waiting records."""
        return len(self._waiting)

    def add(self, record: AuditRecord) -> None:
        """Buffer a record; it is written shortly afterwards."""
        self._waiting.append(record)
        self._shed()
        if not self._wake.is_set():
            self._wake.set()

    async def run(self) -> None:
        """Write records until cancelled."""
        while True:
            await self._wake.wait()
            # The calls of this interval share a transaction.
            await anyio.sleep(_GATHER_S)
            self._wake = anyio.Event()
            while self._waiting:
                if not await self.write_batch():
                    await anyio.sleep(_RETRY_S)

    async def write_batch(self) -> bool:
        """Write a batch of waiting records; return False if the store failed, in which case they stay buffered."""
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        left, reason = batch, f"no answer within {_WRITE_S:g} s"
        try:
            with anyio.move_on_after(_WRITE_S):
                await self._put(batch)
                left, reason = [], ""
        except StoreError as error:
            reason = error.message
        finally:
            self._waiting.extendleft(reversed(left))
            self._shed()
            self._meters.audit_written(len(batch) - len(left))
            self._meters.audit_waiting(len(self._waiting))
        self._tell(reason)
        return not left

    async def _put(self, batch: Sequence[AuditRecord]) -> None:
        documents = {record.id: record.document() for record in batch}
        try:
            there = await self._collection.insert_all(list(documents.values()))
        except InvalidDocument:
            if len(batch) > 1:
                for record in batch:
                    await self._put([record])
                return
            self._meters.audit_dropped(1)
            _log.exception("audit record cannot be stored", record=batch[0].id)
            return
        for record_id in there:
            # It exists already: a write whose answer was lost, or the first record of an aggregate.
            await self._replace(documents[record_id])

    async def _replace(self, document: dict[str, object]) -> None:
        try:
            await self._collection.replace(document)
        except (VersionConflict, DocumentMissing):
            # Already replaced by its aggregate, or purged meanwhile.
            return

    def _shed(self) -> None:
        """Drop the oldest records if there are too many."""
        while len(self._waiting) > self._most:
            self._waiting.popleft()
            self._dropped += 1
            self._meters.audit_dropped(1)

    def _tell(self, reason: str) -> None:
        """Log once when the store begins to fail, and once when it works again."""
        if reason and not self._failing:
            self._meters.audit_failed()
            _log.error("audit not written", reason=reason, waiting=len(self._waiting))
        elif self._failing and not reason:
            _log.warning("audit written again", dropped=self._dropped)
            self._dropped = 0
        self._failing = bool(reason)
