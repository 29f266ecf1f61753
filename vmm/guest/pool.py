"""The connections of one link: kept for the next call, and closed when they or their secret are outdated."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from vmm.errors import LinkError

from .connection import Connection, Dial
from .dialler import Dialler

_DIALS = 2
"""How many calls dial at once. QEMU lets two wait to be forwarded; the kernel silently drops a third, and tries
again after 1, 3, 7, 15 seconds, each time beside all the others. Source: `listen` in libslirp; tcp(7)."""


class Pool:
    """Hands out authenticated connections, the most recently used one first.

    When all are in use, calls wait in line: for their turn to dial, or for one that is returned. Only the number of
    concurrent dials is limited, not that of connections in use, so that no call waits for another one to end.

    Args:
        dial: Opens a new connection to the agent.
        secret: The secret that the agent and the host share.
        max_idle: How many idle connections to keep.
        heard: Called for each frame that arrives on any of them, as a sign of life.

    Attributes:
        secret: What new connections authenticate with.
    """

    def __init__(self, dial: Dial, secret: bytes, max_idle: int, heard: Callable[[], None]) -> None:
        self.secret = secret
        self._dialler = Dialler(dial, heard)
        self._max_idle = max_idle
        self._idle: list[Connection] = []
        self._line: deque[_Place] = deque()
        self._dialling: list[_Place] = []
        self._generation = 0
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Give a connection to one operation; close it if the block ends early, unless it was kept before.

        Raises:
            LinkError: No connection could be made.
        """
        connection = await self.take()
        loan = connection.loan
        try:
            yield connection
        except BaseException:
            if connection.loan == loan:
                await connection.aclose()
            raise
        await self.keep(connection)

    async def take(self) -> Connection:
        """Return a connection that the caller gives back with `keep`, or closes.

        Raises:
            LinkError: No connection could be made.
        """
        while self._idle and not self._closed:
            connection = self._idle.pop()
            if connection.alive():
                return connection
            await connection.aclose()
        since = anyio.current_time()
        place = _Place()
        self._line.append(place)
        self._next_dials()
        try:
            await self._dialler.wait(place.reached, since)
            if place.connection is None:
                await self._dial(place, since)
        except BaseException:
            if place.connection is not None:
                with anyio.CancelScope(shield=True):
                    await self.keep(place.connection)
            raise
        finally:
            self._leave(place)
        assert place.connection is not None
        return place.connection

    async def keep(self, connection: Connection) -> None:
        """Take back a connection on which an operation has ended normally."""
        connection.loan += 1
        if connection.generation != self._generation or self._closed:
            await connection.aclose()
        elif waiting := self._line or self._dialling:
            place = waiting[0]
            self._leave(place)
            place.give(connection)
        elif len(self._idle) < self._max_idle:
            self._idle.append(connection)
        else:
            await connection.aclose()

    async def renew(self, secret: bytes, survivor: Connection) -> None:
        """Continue with a new secret; of the connections, only the one that brought it stays valid."""
        self.secret = secret
        await self.drop()
        survivor.generation = self._generation

    async def drop(self) -> None:
        """Close idle connections; those in use are closed when their operation ends."""
        self._generation += 1
        self._dialler.forget()
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close the pool for good."""
        self._closed = True
        for place in self._line:
            place.reached.set()
        await self.drop()

    async def _dial(self, place: _Place, since: float) -> None:
        with place.dial:
            if self._closed:
                raise LinkError("The link to the guest is closed")
            made = await self._dialler.connection(self.secret, self._generation, since)
            if place.connection is None:
                place.connection = made
            else:
                await self.keep(made)

    def _leave(self, place: _Place) -> None:
        if place in self._line:
            self._line.remove(place)
        if place in self._dialling:
            self._dialling.remove(place)
            self._next_dials()

    def _next_dials(self) -> None:
        while self._line and len(self._dialling) < _DIALS:
            place = self._line.popleft()
            self._dialling.append(place)
            place.reached.set()


class _Place:
    """A place in the line.

    Attributes:
        reached: Set when its turn to dial has come, or it has a connection.
        connection: The connection that it got.
        dial: Its dial, which ends if it gets another connection first.
    """

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.connection: Connection | None = None
        self.dial = anyio.CancelScope()

    def give(self, connection: Connection) -> None:
        self.connection = connection
        self.reached.set()
        self.dial.cancel()
