"""One sandbox's recent destinations, allowed and refused; in memory, for its owner to read and to follow."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import anyio
import anyio.to_thread

from .suggestion import EVERY, smallest

MOST_DESTINATIONS = 4096
LONGEST_HOST = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEvent:
    """One connection or lookup that was decided.

    Attributes:
        at_ms: When, in milliseconds since 1970.
        allowed: How.
        protocol: "tcp" or "dns"; with a tap also "udp", "icmp" and others.
        host: The name, if one is known; else the address.
        port: Of the destination; 53 for lookups; 0 where the protocol has none.
        reason: Why it was refused.
        number: 1, 2, ... in the order of events.
    """

    at_ms: int
    allowed: bool
    protocol: str
    host: str
    port: int
    reason: str
    number: int

    @property
    def destination(self) -> str:
        """As people write it: example.com:443, example.com:443/udp, example.com/icmp; a name that was looked up."""
        if self.protocol == "dns":
            return self.host
        place = f"{self.host}:{self.port}" if self.port or self.protocol == "tcp" else self.host
        return place if self.protocol == "tcp" else f"{place}/{self.protocol}"


class NetworkLog:
    """The last events of a sandbox.

    Attributes:
        number: Of the newest event; 0 before the first.
        allowed: How many were allowed since the log began.
        refused: How many were refused.
    """

    def __init__(self, clock: Callable[[], int], keep: int = 200) -> None:
        self.number = 0
        self.allowed = 0
        self.refused = 0
        self._clock = clock
        self._events: deque[NetworkEvent] = deque(maxlen=keep)
        # Of all that was allowed, not of the last events alone: a suggestion that forgets is wrong.
        self._reached: dict[tuple[str, int | None], None] = {}
        self._changed = anyio.Event()

    def record(
        self,
        *,
        allowed: bool,
        protocol: str,
        host: str,
        port: int,
        reason: str = "",
        address: IPv4Address | None = None,
    ) -> None:
        """Add an event.

        Args:
            allowed: The same as of the event, like those that follow.
            protocol: The same.
            host: The same.
            port: The same.
            reason: The same.
            address: The destination's, without which a suggestion cannot open what is not TCP.
        """
        host = host[:LONGEST_HOST]
        self.number += 1
        if allowed:
            self.allowed += 1
            self._reach(host, port, protocol, address)
        else:
            self.refused += 1
        self._events.append(
            NetworkEvent(
                at_ms=self._clock(),
                allowed=allowed,
                protocol=protocol,
                host=host,
                port=port,
                reason=reason,
                number=self.number,
            )
        )
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def last(self, count: int = 20, *, allowed: bool | None = None) -> tuple[NetworkEvent, ...]:
        """Return the newest events, oldest first; `allowed` leaves only those that were decided so."""
        events = [event for event in self._events if allowed is None or event.allowed is allowed]
        return tuple(events[max(0, len(events) - count) :])

    def since(self, number: int) -> tuple[NetworkEvent, ...]:
        """Return the events after that number, as far as they are kept."""
        return tuple(event for event in self._events if event.number > number)

    async def follow(self, number: int) -> AsyncIterator[NetworkEvent]:
        """Give the events after that number, then each further one as it comes; never ends by itself."""
        while True:
            changed = self._changed  # before looking: what comes meanwhile sets this one
            for event in self.since(number):
                number = event.number
                yield event
            await changed.wait()

    async def suggestion(self) -> str:
        """Return the smallest policy that would have allowed what was allowed, as `Policy.parse` reads it."""
        # In a thread, because the guest decides how many names there are, and on a copy, as more of them may come.
        found = await anyio.to_thread.run_sync(smallest, tuple(self._reached))
        return found.text()

    def _reach(self, host: str, port: int, protocol: str, address: IPv4Address | None) -> None:
        reached: list[tuple[str, int | None]] = [(host, (port or None) if protocol == "tcp" else None)]
        if protocol not in {"tcp", "dns"} and address is not None:
            reached.append((str(address), EVERY))
        if len(self._reached) < MOST_DESTINATIONS:
            self._reached.update(dict.fromkeys(reached))
