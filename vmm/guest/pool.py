"""The connections of one link: reused by later calls, and closed when they or their secret are outdated."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from vmm.errors import LinkError

from .connection import Connection, Dial
from .dialler import Dialler

_DIALS = 2
"""How many calls dial at once. QEMU queues two connections for forwarding; the kernel silently drops a third, and
retries it after 1, 3, 7, 15 seconds, each time competing with all others. Source: `listen` in libslirp; tcp(7)."""


class Pool:
    """Hands out authenticated connections, the most recently used one first.

    When all are in use, calls queue until they may dial or a connection is returned. Only concurrent dials are limited,
    not connections in use, so no call depends on the end of another one.

    Args:
        dial: Opens a new connection to the agent.
        secret: The secret that the agent and the host share.
        max_idle: How many idle connections to keep.
        heard: Called for each frame that arrives on any connection, as a sign of life.

    Attributes:
        secret: What new connections authenticate with.
    """

    def __init__(self, dial: Dial, secret: bytes, max_idle: int, heard: Callable[[], None]) -> None:
        self.secret = secret
        self._dialler = Dialler(dial, heard)
        self._max_idle = max_idle
        self._idle: list[Connection] = []
        self._queue: deque[_Waiter] = deque()
        self._dialling: list[_Waiter] = []
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
        waiter = _Waiter()
        self._queue.append(waiter)
        self._next_dials()
        try:
            await self._dialler.wait(waiter.ready, since)
            if waiter.connection is None:
                await self._dial(waiter, since)
        except BaseException:
            if waiter.connection is not None:
                with anyio.CancelScope(shield=True):
                    await self.keep(waiter.connection)
            raise
        finally:
            self._leave(waiter)
        assert waiter.connection is not None
        return waiter.connection

    async def keep(self, connection: Connection) -> None:
        """Take back a connection on which an operation has ended normally."""
        connection.loan += 1
        if connection.generation != self._generation or self._closed:
            await connection.aclose()
        elif waiting := self._queue or self._dialling:
            waiter = waiting[0]
            self._leave(waiter)
            waiter.give(connection)
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
        for waiter in self._queue:
            waiter.ready.set()
        await self.drop()

    async def _dial(self, waiter: _Waiter, since: float) -> None:
        with waiter.dial:
            if self._closed:
                raise LinkError("The link to the guest is closed")
            made = await self._dialler.connection(self.secret, self._generation, since)
            if waiter.connection is None:
                waiter.connection = made
            else:
                await self.keep(made)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        if waiter in self._dialling:
            self._dialling.remove(waiter)
            self._next_dials()

    def _next_dials(self) -> None:
        while self._queue and len(self._dialling) < _DIALS:
            waiter = self._queue.popleft()
            self._dialling.append(waiter)
            waiter.ready.set()


class _Waiter:
    """A call in the queue.

    Attributes:
        ready: Set when it may dial, or has a connection.
        connection: The connection that it got.
        dial: Its dial, which is cancelled if it gets another connection first.
    """

    def __init__(self) -> None:
        self.ready = anyio.Event()
        self.connection: Connection | None = None
        self.dial = anyio.CancelScope()

    def give(self, connection: Connection) -> None:
        self.connection = connection
        self.ready.set()
        self.dial.cancel()
