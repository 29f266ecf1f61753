"""Recently valid credentials, as digests, so that a flood of invalid ones cannot evict or delay them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

LIFETIME_S = 3600.0
CAPACITY = 16_384


class KnownCredentials:
    """Remembers the digests of credentials for an hour after their last successful check."""

    def __init__(self, monotonic: Callable[[], float], *, capacity: int = CAPACITY) -> None:
        """Create an empty set.

        Args:
            monotonic: Monotonic clock in seconds.
            capacity: The maximum number of digests; the least recently valid are evicted.
        """
        self._monotonic = monotonic
        self._capacity = capacity
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, text: str) -> bool:
        return self._until.get(_digest(text), 0.0) > self._monotonic()

    def add(self, text: str) -> None:
        """Remember a credential that is valid now."""
        digest = _digest(text)
        self._until[digest] = self._monotonic() + LIFETIME_S
        self._until.move_to_end(digest)
        if len(self._until) > self._capacity:
            self._until.popitem(last=False)

    def discard(self, text: str) -> None:
        """Forget a credential that was refused."""
        self._until.pop(_digest(text), None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
