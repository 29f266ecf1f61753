"""Refusals alike, summed up: whoever knocks a thousand times a second shall not fill the store.

The first of them is recorded at once. Those that follow within ten seconds are only counted, and at the end of that
time the same record is written again with their number. Pure: time comes in as a number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .record import AuditRecord

WINDOW_MS = 10_000
MANY = "many"
_MOST = 4096

_Key = tuple[str, str, str, str]


@dataclass(slots=True)
class _Burst:
    first: AuditRecord
    started_ms: int
    count: int = 1


class RefusalAggregator:
    """Counts refusals by address, reason, action and organisation.

    Args:
        most: Different ones that are told apart; the rest is summed up over addresses and reasons.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._open: dict[_Key, _Burst] = {}
        self._most = most

    def again(self, address: str, reason: str, action: str, org_id: str) -> bool:
        """Count a refusal like one that was added lately; False if there was none."""
        burst = self._open.get((address, reason, action, org_id))
        if burst is None:
            return False
        burst.count += 1
        return True

    def add(self, record: AuditRecord, now_ms: int) -> AuditRecord | None:
        """The record to write now, or None if it was counted with another."""
        key = (record.address, record.reason, record.action, record.org_id)
        burst = self._open.get(key)
        if burst is None and len(self._open) >= self._most:
            record = replace(record, address=MANY, reason=MANY)
            key = (MANY, MANY, record.action, record.org_id)
            burst = self._open.get(key)
        if burst is not None:
            # One whose time is over but that was not closed yet takes this one with it.
            burst.count += record.count
            return None
        self._open[key] = _Burst(record, now_ms)
        return record

    def due(self, now_ms: int) -> list[AuditRecord]:
        """Records that stand for more than themselves and whose time is over; they are forgotten here."""
        over = [key for key, burst in self._open.items() if now_ms - burst.started_ms >= WINDOW_MS]
        closed = [self._open.pop(key) for key in over]
        return [replace(burst.first, count=burst.count) for burst in closed if burst.count > 1]

    def close(self) -> list[AuditRecord]:
        """The same for all of them, whether their time is over or not."""
        closed = list(self._open.values())
        self._open.clear()
        return [replace(burst.first, count=burst.count) for burst in closed if burst.count > 1]
