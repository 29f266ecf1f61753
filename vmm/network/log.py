"""One sandbox's recent destinations, allowed and refused; in memory, for its owner to read and to follow."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

from .suggestion import smallest

MOST_DESTINATIONS = 4096
LONGEST_HOST = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEvent:
    """One connection or lookup that was decided.

    Attributes:
        at_ms: When, in milliseconds since 1970.
        allowed: How.
        protocol: "tcp" or "dns".
        host: The name, if one is known; else the address.
        port: Of the destination; 53 for lookups.
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

    def record(self, *, allowed: bool, protocol: str, host: str, port: int, reason: str = "") -> None:
        """Add an event."""
        host = host[:LONGEST_HOST]
        self.number += 1
        if allowed:
            self.allowed += 1
            if len(self._reached) < MOST_DESTINATIONS:
                self._reached[host, None if protocol == "dns" else port] = None
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
