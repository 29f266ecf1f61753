"""Counters in memory: bounded in number, in windows that begin at the same moment on every server.

Libraries for rate limits count each caller in a window of its own, so that several servers could not add their counts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeAlias

from .clock import Clock, now_ms

CAPACITY = 20_000
Counter: TypeAlias = list[Any]
"""A counter in a document: name, count, end of the window in epoch milliseconds."""


class Counts:
    """Counters by name, each for the current window; the least recently counted go first when there are too many."""

    def __init__(self, *, clock: Clock = now_ms, capacity: int = CAPACITY) -> None:
        """Create an empty set of counters.

        Args:
            clock: Epoch milliseconds.
            capacity: The maximum number of counters.
        """
        self._clock = clock
        self._capacity = capacity
        self._own: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._others: dict[str, tuple[int, int]] = {}
        self._changed = False

    def __len__(self) -> int:
        return len(self._own)

    def hit(self, key: str, window_s: int) -> tuple[int, int]:
        """Increment a counter, and return its sum in the window and the window's end in epoch milliseconds."""
        now = self._clock()
        count, end_ms = self._own.get(key, (0, 0))
        if end_ms <= now:
            count, end_ms = 0, (now // (window_s * 1000) + 1) * window_s * 1000
        self._own[key] = (count + 1, end_ms)
        self._own.move_to_end(key)
        if len(self._own) > self._capacity:
            self._own.popitem(last=False)
        self._changed = True
        return count + 1 + self._others_sum(key, now)[0], end_ms

    def current(self, key: str) -> tuple[int, int]:
        """Return the sum in the current window and the window's end in epoch milliseconds; now if there is no count."""
        now = self._clock()
        count, end_ms = self._own.get(key, (0, 0))
        if end_ms <= now:
            count, end_ms = 0, now
        elsewhere, other_end_ms = self._others_sum(key, now)
        return count + elsewhere, max(end_ms, other_end_ms)

    def export(self) -> list[Counter]:
        """Return this server's counters whose windows have not ended."""
        now = self._clock()
        self._changed = False
        # Only the oldest are dropped here; the other ended windows are filtered below and dropped later.
        while self._own and next(iter(self._own.values()))[1] <= now:
            self._own.popitem(last=False)
        return [[key, count, end_ms] for key, (count, end_ms) in self._own.items() if end_ms > now]

    @property
    def changed(self) -> bool:
        """Whether a counter changed since the last export."""
        return self._changed

    def mark_unsaved(self) -> None:
        """Mark the last export as not written, so that the counters are exported again."""
        self._changed = True

    def set_others(self, counters: list[Counter]) -> None:
        """Replace the counters of all other servers by these."""
        sums: dict[str, tuple[int, int]] = {}
        for key, count, end_ms in counters:
            before, last_ms = sums.get(key, (0, 0))
            # Windows of one counter end at the same time on all servers: a later end is a later window.
            if end_ms > last_ms:
                sums[key] = (count, end_ms)
            elif end_ms == last_ms:
                sums[key] = (before + count, end_ms)
        self._others = sums

    def _others_sum(self, key: str, now: int) -> tuple[int, int]:
        if not self._others:
            return 0, 0
        count, end_ms = self._others.get(key, (0, 0))
        return (count, end_ms) if end_ms > now else (0, 0)
