"""The connection to MongoDB: every operation has a deadline, and writes with a lost answer are resolved."""

from __future__ import annotations

import asyncio
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
"""Concurrent operations: one for each connection of the driver."""

_GRACE_S = 0.5


class MongoLink:
    """Runs operations on one database of a server while it is open.

    Args:
        where: The redacted address of the server, for messages.
        name: The database.
        within_s: Deadline of an operation in seconds, counted from when it gets a connection. It waits for a connection
            as long as other operations complete, and for this long if none does.
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
        """Take ownership of a client.

        Raises:
            StoreUnavailable: The link is already open.
        """
        if self._client is not None:
            raise StoreUnavailable(f"The store at {self.where} is already open")
        self._client = client

    async def aclose(self) -> None:
        """Refuse new operations, wait for running ones, and close the client. Idempotent."""
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
        """Run a read. The driver itself retries it when the connection is lost.

        Raises:
            StoreError: The read failed.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        # Shielded, because the driver leaks sockets when it is cancelled while it connects.
        async with self._using(self._within_s, writing=False) as database, self._bounded(self._within_s):
            return await ask(database)
        raise AssertionError  # unreachable: the block either returns or raises

    async def write(
        self,
        attempt: Callable[[AsyncDatabase[Document]], Awaitable[T]],
        again: Callable[[AsyncDatabase[Document]], Awaitable[T]] | None = None,
        *,
        within_s: float = 0.0,
    ) -> T:
        """Run a write. Once it has begun, it is completed even when the caller is cancelled.

        Args:
            attempt: The write.
            again: Runs once if the outcome of the first attempt is unknown: finds out whether it was applied, or
                repeats it. Without it, the error says that the outcome is unknown.
            within_s: Deadline in seconds for a write that takes longer than usual.

        Raises:
            StoreUnavailable: The write was not applied, or its outcome is unknown.
            StoreError: The write failed and changed nothing.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        limit_s = within_s or self._within_s
        # Shielded, so that nothing is written after a cancelled caller has gone on.
        async with self._using(limit_s, writing=True) as database, self._bounded(limit_s):
            try:
                return await attempt(database)
            except FAILURES as error:
                if again is None or not unsure(error):
                    raise
            return await again(database)
        raise AssertionError  # unreachable: the block either returns or raises

    def in_doubt(self, what: str) -> StoreUnavailable:
        """Create the error for a write with an unknown outcome."""
        return StoreUnavailable(
            f"The connection to the store at {self.where} was lost while {what}; "
            "check whether it was applied, then try again"
        )

    @asynccontextmanager
    async def _bounded(self, limit_s: float) -> AsyncGenerator[None]:
        """Run a block of the driver's calls to their end, whatever becomes of the caller, within a deadline.

        The driver's own deadline comes first; this one covers what the driver does not bound, such as name resolution.

        Raises:
            StoreUnavailable: It was late.
        """
        # Cancels once. A cancel scope repeats it for as long as the task goes on, and a condition of asyncio that is
        # cancelled again while it cleans up may leave the driver's lock taken for ever.
        deadline = asyncio.timeout(limit_s + _GRACE_S)
        with anyio.CancelScope(shield=True):
            try:
                async with deadline:
                    yield
            except TimeoutError:
                if deadline.expired():
                    raise self._late() from None
                raise

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
            # One deadline for the whole operation, including connecting and retrying.
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
        """Wait for a connection: as long as a busy server completes operations, but not for one that completes none."""
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
