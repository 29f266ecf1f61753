"""The audit log: records every call, logs it at once, writes the records to the store and purges old ones."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import structlog

from auth.clock import Clock, now_ms
from storage.errors import StoreError
from storage.ids import new_id

from ..http.request_id import current_request_id
from ..observability.tracing import describe_call
from .entry import Entry, current_request, use_entry
from .record import BY_TIME, AuditRecord, Surface
from .redaction import redact_arguments, redact_text
from .refusal_aggregator import RefusalAggregator
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from storage.collection import Collection

    from ..observability.metrics import Meters
    from .entry import AuditedRequest

UNKNOWN = "unknown"
"""The action of a call of something that there is not."""

NOT_REACHED = "mcp"
"""The action of an MCP request that was refused on its way to the protocol."""

_DAY_MS = 86_400_000
_REFUSALS_TICK_S = 1.0
_PURGE_EVERY_S = 3600.0
_PURGE_DEADLINE_S = 60.0
_PURGED_AT_ONCE = 1000
_FLUSH_S = 5.0
_LONGEST_REF = 80
_LONGEST_REASON = 300
_log = structlog.stdlib.get_logger("casemate.audit")


class AuditLog:
    """Notes calls. It writes only while `run` does; what comes before or after waits in memory.

    Args:
        collection: Of AUDIT.
        meters: Told of every call.
        days: How long records are kept.
        clock: Epoch milliseconds.
    """

    def __init__(self, collection: Collection, *, meters: Meters, days: int, clock: Clock = now_ms) -> None:
        self._collection = collection
        self._meters = meters
        self._days = days
        self._clock = clock
        self._refusals = RefusalAggregator()
        self._writer = Writer(collection, meters)

    @contextmanager
    def call(
        self, *, surface: Surface, action: str, arguments: Mapping[str, object], sandbox: str = ""
    ) -> Generator[Entry]:
        """Record the block as one call of the request that this task works for.

        What the block raises is recorded and raised on. A block that turns an error into an answer, or into another
        error, tells it with `Entry.fail` or `Entry.refuse`.

        Args:
            surface: Which door was used.
            action: A name out of a bounded set; `UNKNOWN` for what there is not.
            arguments: As the caller gave them.
            sandbox: Id or name, as the caller gave it.
        """
        request = current_request()
        request.calls += 1
        entry = Entry(arguments=arguments, sandbox=sandbox)
        began_ms, began = self._clock(), time.perf_counter()
        try:
            with use_entry(entry):
                yield entry
        except BaseException as error:
            if entry.decision == "allowed":
                entry.fail(error)
            raise
        finally:
            self.record(entry, request, surface=surface, action=action, began_ms=began_ms, began=began)

    def record(
        self, entry: Entry, request: AuditedRequest, *, surface: Surface, action: str, began_ms: int, began: float
    ) -> None:
        """Record a call that has ended.

        Args:
            entry: The call.
            request: The request that it came in.
            surface: Which door was used.
            action: A name out of a bounded set.
            began_ms: When it began, epoch milliseconds.
            began: The same as `time.perf_counter` has it.
        """
        seconds = time.perf_counter() - began
        who = request.principal
        org_id = who.org_id if who else ""
        reason = _plain(redact_text(entry.reason, _LONGEST_REASON), _LONGEST_REASON) if entry.reason else ""
        if action != NOT_REACHED:
            self._meters.call(surface, action, entry.decision, seconds)
        sandbox = _plain(entry.sandbox)
        describe_call(sandbox=sandbox, outcome=entry.decision)
        # A refusal of which anybody can cause any number at no cost: the many of a flood cost no more than a look.
        at_the_door = entry.decision == "refused" and (not org_id or entry.status == 429 or action == NOT_REACHED)
        if at_the_door and self._refusals.again(request.address, reason, action, org_id):
            return
        record = AuditRecord(
            id=new_id(),
            org_id=org_id,
            at_ms=began_ms,
            user_id=who.user_id if who else "",
            key_id=who.key_id if who else "",
            method=who.method if who else "",
            address=request.address,
            surface=surface,
            action=action,
            sandbox=sandbox,
            decision=entry.decision,
            status=entry.status,
            reason=reason,
            duration_ms=round(seconds * 1000),
            exit_code=entry.exit_code,
            arguments=redact_arguments(entry.arguments),
            request_id=request.request_id or current_request_id(),
        )
        kept = self._refusals.add(record, self._clock()) if at_the_door else record
        if kept is not None:
            self._keep(kept)

    async def run(self) -> None:
        """Write, sum up and purge until cancelled; then write what waits, for a few seconds at most."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._writer.run)
                tasks.start_soon(self._write_refusals)
                tasks.start_soon(self._purge_hourly)
        finally:
            with anyio.move_on_after(_FLUSH_S, shield=True):
                await self._flush()
            if len(self._writer):
                _log.error("audit records lost at the stop", lost=len(self._writer))

    async def purge(self) -> int:
        """Remove records that are older than they are kept; how many.

        Raises:
            StoreError: The store failed.
        """
        below = self._clock() - self._days * _DAY_MS
        total = 0
        removed = _PURGED_AT_ONCE
        while removed == _PURGED_AT_ONCE:
            removed = await self._collection.purge(BY_TIME, below=below, limit=_PURGED_AT_ONCE)
            total += removed
        return total

    async def _flush(self) -> None:
        for record in self._refusals.close():
            self._keep(record)
        while len(self._writer):
            if not await self._writer.write_batch():
                return

    async def _write_refusals(self) -> None:
        while True:
            await anyio.sleep(_REFUSALS_TICK_S)
            for record in self._refusals.due(self._clock()):
                self._keep(record)

    async def _purge_hourly(self) -> None:
        while True:
            try:
                with anyio.fail_after(_PURGE_DEADLINE_S):
                    removed = await self.purge()
                _log.debug("audit purged", removed=removed)
            except (StoreError, TimeoutError) as error:
                _log.warning("audit not purged", reason=str(error) or "no answer in time")
            await anyio.sleep(_PURGE_EVERY_S)

    def _keep(self, record: AuditRecord) -> None:
        self._writer.add(record)
        _log.info(
            "call",
            id=record.id,
            surface=record.surface,
            action=record.action,
            decision=record.decision,
            status=record.status,
            reason=record.reason,
            ms=record.duration_ms,
            org=record.org_id,
            user=record.user_id,
            key=record.key_id,
            address=record.address,
            sandbox=record.sandbox,
            exit_code=record.exit_code,
            count=record.count,
        )


def _plain(text: str, most: int = _LONGEST_REF) -> str:
    """A text that every store can keep and index."""
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
