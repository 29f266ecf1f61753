"""Connections to published ports that are open: how many a sandbox may have, and their end when a port is revoked."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MOST = 256
"""Open connections of one sandbox."""


class TooManyVisits(Exception):
    """The sandbox has as many open connections as it may."""


@dataclass(slots=True, eq=False)
class Visit:
    """A request or a WebSocket while it is served.

    Attributes:
        scope: Cancelled when the visit has to end.
        revoked: Whether it ended because the port may no longer be opened.
        public: Whether the visitor showed no right, because the port is public.
    """

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    revoked: bool = False
    public: bool = False

    def end(self) -> None:
        """End the visit, because the port may no longer be opened."""
        self.revoked = True
        self.scope.cancel()


class Visits:
    """All open connections to published ports.

    Args:
        most: Connections of one sandbox.
        clock: Seconds since the epoch.
    """

    def __init__(self, *, most: int = MOST, clock: Callable[[], float] = time.time) -> None:
        self._open: dict[str, dict[int, set[Visit]]] = {}
        self._most = most
        # Strangers must not keep those out who have a right.
        self._most_public = max(1, most * 3 // 4)
        self._clock = clock

    def __len__(self) -> int:
        """Count the open connections."""
        return sum(len(visits) for ports in self._open.values() for visits in ports.values())

    @contextmanager
    def opened(self, sandbox_id: str, port: int, *, until_s: float = 0, public: bool = False) -> Generator[Visit]:
        """Count a connection for the length of a block, which is cancelled when the port is revoked.

        Args:
            sandbox_id: The sandbox.
            port: The port.
            until_s: When the right to open the port expires, in seconds since the epoch; 0 is never.
            public: Whether the visitor showed no right; these have at most three quarters of the connections.

        Raises:
            TooManyVisits: The sandbox has as many as it may.
        """
        ports = self._open.setdefault(sandbox_id, {})
        others = [visit for visits in ports.values() for visit in visits]
        strangers = sum(visit.public for visit in others)
        if len(others) >= self._most or (public and strangers >= self._most_public):
            raise TooManyVisits
        visit = Visit(public=public)
        if until_s:
            visit.scope.deadline = anyio.current_time() + max(0.0, until_s - self._clock())
        visits = ports.setdefault(port, set())
        visits.add(visit)
        try:
            with visit.scope:
                yield visit
        finally:
            visits.discard(visit)
            if not visits:
                ports.pop(port, None)
            if not ports:
                self._open.pop(sandbox_id, None)

    def end(self, sandbox_id: str, port: int) -> None:
        """End the connections to a port that may no longer be opened."""
        for visit in tuple(self._open.get(sandbox_id, {}).get(port, ())):
            visit.end()
