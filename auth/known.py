"""Credentials that were good lately: few, as digests, so that a flood of others cannot displace or delay them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

LIFETIME_S = 3600.0
CAPACITY = 16_384


class KnownCredentials:
    """Remembers the digests of credentials for an hour after each time that they were good."""

    def __init__(self, monotonic: Callable[[], float], *, capacity: int = CAPACITY) -> None:
        """Nothing is known yet.

        Args:
            monotonic: Seconds that never go back.
            capacity: Most digests to keep; the least recently good go first.
        """
        self._monotonic = monotonic
        self._capacity = capacity
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, text: str) -> bool:
        return self._until.get(_digest(text), 0.0) > self._monotonic()

    def add(self, text: str) -> None:
        """It was good just now."""
        digest = _digest(text)
        self._until[digest] = self._monotonic() + LIFETIME_S
        self._until.move_to_end(digest)
        if len(self._until) > self._capacity:
            self._until.popitem(last=False)

    def discard(self, text: str) -> None:
        """It was refused just now."""
        self._until.pop(_digest(text), None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
