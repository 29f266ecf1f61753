"""The connections of one link: kept for the next call, thrown away when they or the secret are of yesterday."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from vmm.errors import LinkError

from .connection import Connection, Dial
from .dialler import Dialler

_DIALS = 2
"""How many calls dial at once. QEMU lets two wait to be forwarded; the kernel forgets a third without a word, and asks
again after 1, 3, 7, 15 seconds, each time beside all the others. Source: `listen` in libslirp; tcp(7)."""


class Pool:
    """Hands out authenticated connections, the most recently used one first.

    When all are in use, calls wait in line: for one that comes back, or for their turn to dial. Only dials are few at
    once; connections in use are as many as there are calls, so that no call waits for another one's end.

    Attributes:
        secret: What new connections authenticate with.
    """

    def __init__(self, dial: Dial, secret: bytes, max_idle: int) -> None:
        self.secret = secret
        self._dialler = Dialler(dial)
        self._max_idle = max_idle
        self._idle: list[Connection] = []
        self._line: deque[_Place] = deque()
        self._dialling = 0
        self._generation = 0
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection for one operation, closed by whatever ends the block early unless it was kept before.

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
        """A connection that the caller gives back with `keep`, or closes.

        Raises:
            LinkError: No connection could be made.
        """
        while self._idle and not self._closed:
            connection = self._idle.pop()
            if connection.alive():
                return connection
            await connection.aclose()
        since = anyio.current_time()
        connection = await self._turn(since)
        if connection is not None:
            return connection
        try:
            if self._closed:
                raise LinkError("The link to the guest is closed")
            return await self._dialler.connection(self.secret, self._generation, since)
        finally:
            self._dialling -= 1
            self._next_dials()

    async def keep(self, connection: Connection) -> None:
        """Take a connection back on which an operation has ended in order."""
        connection.loan += 1
        if connection.generation != self._generation or self._closed:
            await connection.aclose()
        elif self._line:
            self._line.popleft().give(connection)
        elif len(self._idle) < self._max_idle:
            self._idle.append(connection)
        else:
            await connection.aclose()

    async def renew(self, secret: bytes, survivor: Connection) -> None:
        """Go on with a new secret; of the connections only the one that brought it is still good."""
        self.secret = secret
        await self.drop()
        survivor.generation = self._generation

    async def drop(self) -> None:
        """Close what is idle now; what is in use is closed when its operation ends."""
        self._generation += 1
        self._dialler.forget()
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close for good."""
        self._closed = True
        for place in self._line:
            self._dialling += 1
            place.reached.set()
        self._line.clear()
        await self.drop()

    async def _turn(self, since: float) -> Connection | None:
        """Wait in line for a connection that comes back; None for the turn to dial, which counts as dialling."""
        place = _Place()
        self._line.append(place)
        self._next_dials()
        try:
            while not place.reached.is_set():
                patience = self._dialler.patience(since)
                if patience <= anyio.current_time():
                    raise self._dialler.silence(since)
                with anyio.CancelScope(deadline=patience):
                    await place.reached.wait()
        except BaseException:
            await self._leave(place)
            raise
        return place.connection

    async def _leave(self, place: _Place) -> None:
        """Let the next in line have what somebody got who does not want it any more."""
        if not place.reached.is_set():
            self._line.remove(place)
        elif place.connection is not None:
            with anyio.CancelScope(shield=True):
                await self.keep(place.connection)
        else:
            self._dialling -= 1
            self._next_dials()

    def _next_dials(self) -> None:
        while self._line and self._dialling < _DIALS:
            self._dialling += 1
            self._line.popleft().reached.set()


class _Place:
    """A place in the line.

    Attributes:
        reached: Its turn has come.
        connection: What it got; None means that it is to dial.
    """

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.connection: Connection | None = None

    def give(self, connection: Connection) -> None:
        self.connection = connection
        self.reached.set()
