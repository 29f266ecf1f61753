"""Which names an address has for one sandbox: those that the resolver gave it, and only while they live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from ipaddress import IPv4Address

from .names import plain

SHORTEST_S = 60  # programs keep an address for a while, whatever its TTL says
LONGEST_S = 24 * 3600
MOST = 4096


class AddressBook:
    """The answers that one sandbox got; bounded, the oldest are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[tuple[IPv4Address, str], float] = {}  # in the order of their last answers
        self._names: dict[IPv4Address, set[str]] = {}
        self._held: Counter[IPv4Address] = Counter()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, name: str, address: IPv4Address, ttl_s: float) -> None:
        """Note that the sandbox was told this address for a name."""
        key = (address, plain(name))
        self._ends.pop(key, None)
        self._ends[key] = self._clock() + min(max(ttl_s, SHORTEST_S), LONGEST_S)
        self._names.setdefault(address, set()).add(key[1])
        if len(self._ends) > MOST:
            self._forget(next((old for old in self._ends if not self._held[old[0]]), next(iter(self._ends))))

    def names(self, address: IPv4Address) -> frozenset[str]:
        """Return the names that the address has now."""
        if not self._held[address]:
            now = self._clock()
            for name in tuple(self._names.get(address, ())):
                if self._ends[address, name] <= now:
                    self._forget((address, name))
        return frozenset(self._names.get(address, ()))

    @contextmanager
    def held(self, address: IPv4Address) -> Generator[None]:
        """Keep the names of an address while a connection to it is open, so that a later policy can judge it."""
        self._held[address] += 1
        try:
            yield
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]

    def _forget(self, key: tuple[IPv4Address, str]) -> None:
        del self._ends[key]
        address, name = key
        self._names[address].discard(name)
        if not self._names[address]:
            del self._names[address]
