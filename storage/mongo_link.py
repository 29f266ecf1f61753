"""The way to MongoDB: every operation has a deadline, and a write whose answer was lost is settled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import pymongo
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from .collection import Document
from .errors import StoreUnavailable
from .mongo_errors import FAILURES, translated, unsure

T = TypeVar("T")
Client: TypeAlias = AsyncMongoClient[Document]
Raw: TypeAlias = AsyncCollection[Document]

AT_ONCE = 32
"""Operations that are under way together: one for each connection of the driver's."""

_GRACE_S = 0.5


class MongoLink:
    """Does operations on one database of a server while it is open.

    Args:
        where: The server's address for messages, with nothing secret in it.
        name: The database.
        within_s: Seconds within which an operation ends one way or the other, once it is its turn. Until then it
            waits as long as others come through; for as many seconds at most if none does.
    """

    def __init__(self, where: str, name: str, *, within_s: float) -> None:
        self.where = where
        self._name = name
        self._within_s = within_s
        self._client: Client | None = None
        self._under_way = 0
        self._none_under_way = anyio.Event()
        self._places = anyio.Semaphore(AT_ONCE)
        self._came_through = 0

    def start(self, client: Client) -> None:
        """Take the client, which is the link's from now on.

        Raises:
            StoreUnavailable: It has one already.
        """
        if self._client is not None:
            raise StoreUnavailable(f"The store at {self.where} is open already")
        self._client = client

    async def aclose(self) -> None:
        """Refuse what comes, wait for what is under way, hang up; a no-op the second time."""
        client, self._client = self._client, None
        if client is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._within_s + _GRACE_S):
                while self._under_way:
                    self._none_under_way = anyio.Event()
                    await self._none_under_way.wait()
            with anyio.move_on_after(self._within_s):
                await client.close()

    async def read(self, ask: Callable[[AsyncDatabase[Document]], Awaitable[T]]) -> T:
        """Do what changes nothing. The driver itself asks again when the connection is lost.

        Raises:
            StoreError: It failed.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        async with self._using(self._within_s, writing=False) as database:
            # Shielded, because the driver loses sockets when it is cancelled while it connects.
            with anyio.move_on_after(self._within_s + _GRACE_S, shield=True):
                return await ask(database)
            raise self._late()

    async def write(
        self,
        attempt: Callable[[AsyncDatabase[Document]], Awaitable[T]],
        again: Callable[[AsyncDatabase[Document]], Awaitable[T]] | None = None,
        *,
        within_s: float = 0.0,
    ) -> T:
        """Change something. Once begun, it is waited for even when cancelled.

        Args:
            attempt: The write.
            again: Done once if it is not known whether the first attempt was applied: finds that out, or does what
                is missing. Without it, the error says that it is not known.
            within_s: Seconds for something that takes longer than usual.

        Raises:
            StoreUnavailable: It was not applied, or may or may not have been.
            StoreError: It failed and changed nothing.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        limit_s = within_s or self._within_s
        async with self._using(limit_s, writing=True) as database:
            # Shielded, so that who is cancelled knows that nothing is written behind his back. The driver's own
            # deadline comes first; this one is for what it may not bound, such as the look-up of a name.
            with anyio.move_on_after(limit_s + _GRACE_S, shield=True):
                try:
                    return await attempt(database)
                except FAILURES as error:
                    if again is None or not unsure(error):
                        raise
                return await again(database)
            raise self._late()

    def in_doubt(self, what: str) -> StoreUnavailable:
        """The error for a write of which nobody can say whether it was applied."""
        return StoreUnavailable(f"The store at {self.where} lost the connection while {what}; look, then try again")

    @asynccontextmanager
    async def _using(self, limit_s: float, *, writing: bool) -> AsyncGenerator[AsyncDatabase[Document]]:
        self._opened()
        await self._turn()
        try:
            client = self._opened()
            self._under_way += 1
        except BaseException:
            self._places.release()
            raise
        answered = True
        try:
            # One deadline for all that happens within, connecting and repeating included.
            with pymongo.timeout(limit_s):
                yield client[self._name]
        except FAILURES as error:
            failure = translated(self.where, error, writing=writing)
            answered = not isinstance(failure, StoreUnavailable)
            raise failure from error
        except StoreUnavailable:
            answered = False
            raise
        finally:
            self._came_through += answered
            self._places.release()
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    async def _turn(self) -> None:
        """Wait for a place. A busy server takes long for many, which is no failure; one that is gone takes nobody."""
        while True:
            before = self._came_through
            with anyio.move_on_after(self._within_s):
                return await self._places.acquire()
            if self._came_through == before:
                raise self._late()

    def _opened(self) -> Client:
        if self._client is None:
            raise StoreUnavailable(f"The store at {self.where} is not open")
        return self._client

    def _late(self) -> StoreUnavailable:
        return StoreUnavailable(f"The store at {self.where} did not answer in time; check that MongoDB can be reached")
