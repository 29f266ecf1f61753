"""The connections of one link: kept for the next call, thrown away when they or the secret are of yesterday."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from vmm.errors import LinkError

from .connection import Connection, Dial


class Pool:
    """Hands out authenticated connections, the most recently used one first.

    Attributes:
        secret: What new connections authenticate with.
    """

    def __init__(self, dial: Dial, secret: bytes, max_idle: int) -> None:
        self.secret = secret
        self._dial = dial
        self._max_idle = max_idle
        self._idle: list[Connection] = []
        self._generation = 0
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection for one operation, closed by whatever ends the block early unless it was kept before.

        Raises:
            LinkError: No connection could be made.
        """
        connection = await self.take()
        try:
            yield connection
        except BaseException:
            if connection not in self._idle:
                await connection.aclose()
            raise
        await self.keep(connection)

    async def take(self) -> Connection:
        """A connection that the caller gives back with `keep`, or closes.

        Raises:
            LinkError: No connection could be made.
        """
        if self._closed:
            raise LinkError("The link to the guest is closed")
        while self._idle:
            connection = self._idle.pop()
            if connection.alive():
                return connection
            await connection.aclose()
        return await Connection.open(self._dial, self.secret, self._generation)

    async def keep(self, connection: Connection) -> None:
        """Take a connection back on which an operation has ended in order."""
        if connection in self._idle:
            return
        fresh = connection.generation == self._generation and not self._closed
        if fresh and len(self._idle) < self._max_idle:
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
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close for good."""
        self._closed = True
        await self.drop()
