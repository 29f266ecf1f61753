"""A small, short-lived cache for answers of the key store; revoking a key clears it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LIFETIME_S = 5.0
"""How long a revocation by another process may go unnoticed."""

CAPACITY = 4096


class KeyCache(Generic[T]):
    """An LRU cache by digest. It holds only valid keys, so guessed ones cannot evict them."""

    def __init__(self, monotonic: Callable[[], float], *, capacity: int = CAPACITY) -> None:
        """Create an empty cache.

        Args:
            monotonic: Monotonic clock in seconds.
            capacity: The maximum number of values.
        """
        self._monotonic = monotonic
        self._capacity = capacity
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, digest: str) -> T | None:
        """Return the value if it is cached and fresh."""
        found = self._values.get(digest)
        if found is None:
            return None
        value, until = found
        if self._monotonic() >= until:
            del self._values[digest]
            return None
        self._values.move_to_end(digest)
        return value

    def ticket(self) -> tuple[int, float]:
        """Return a ticket for `put`; take it before reading the store."""
        return self._generation, self._monotonic()

    def put(self, digest: str, value: T, ticket: tuple[int, float]) -> None:
        """Cache a value that was read after taking the ticket, unless the cache was cleared since: it may be stale."""
        generation, read_at = ticket
        if generation != self._generation:
            return
        self._values[digest] = (value, read_at + LIFETIME_S)
        self._values.move_to_end(digest)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Remove everything, and invalidate all tickets."""
        self._generation += 1
        self._values.clear()
