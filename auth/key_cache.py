"""Answers of the key store that are still fresh: few, short-lived, and gone when a key is revoked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LIFETIME_S = 5.0
"""How long another process's revocation may stay unseen."""

CAPACITY = 4096


class KeyCache(Generic[T]):
    """Values by digest, the least recently used dropped. Only good keys are put in, so guesses displace nothing."""

    def __init__(self, monotonic: Callable[[], float], *, capacity: int = CAPACITY) -> None:
        """An empty cache.

        Args:
            monotonic: Seconds that never go back.
            capacity: Most values to keep.
        """
        self._monotonic = monotonic
        self._capacity = capacity
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, digest: str) -> T | None:
        """The value, if it is fresh."""
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
        """To be taken before the store is read; `put` needs it."""
        return self._generation, self._monotonic()

    def put(self, digest: str, value: T, ticket: tuple[int, float]) -> None:
        """Keep what was read with that ticket, unless a clearing came in between: then it may be out of date."""
        generation, read_at = ticket
        if generation != self._generation:
            return
        self._values[digest] = (value, read_at + LIFETIME_S)
        self._values.move_to_end(digest)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, and what is being read."""
        self._generation += 1
        self._values.clear()
