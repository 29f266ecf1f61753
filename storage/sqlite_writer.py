"""The one thread that writes to SQLite. Writes that wait are done in one transaction, so they share one sync."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from .errors import StoreError, StoreUnavailable

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

DEADLINE_S = 30.0
_GROUP = 256


@dataclass(frozen=True, slots=True)
class _Job:
    write: Write[Any]
    future: Future[Any]


class SqliteWriter:
    """Does writes in the order in which they come, and returns each only after its commit.

    Args:
        connection: In autocommit mode, usable from any thread; from now on it is the writer's alone.
        translate: Makes the store's error of one of SQLite's.
    """

    def __init__(self, connection: sqlite3.Connection, translate: Callable[[sqlite3.Error], StoreError]) -> None:
        self._connection = connection
        self._translate = translate
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._done = 0
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    async def run(self, write: Write[T], *, within: float = DEADLINE_S) -> T:
        """Do a write; a failing one leaves its neighbours alone. Once begun, it is waited for even when cancelled.

        Args:
            write: What to do; SQLite's errors in it become the store's.
            within: Seconds to wait while nothing is written at all; behind others that are, it waits for its turn.

        Raises:
            StoreUnavailable: It was not done in time; if it had been begun, it may be done later.
            StoreError: It failed and changed nothing.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise StoreUnavailable("The store is closed")
        future: Future[T] = Future()
        self._jobs.put(_Job(write, future))
        outcome = asyncio.wrap_future(future)
        before = -1
        # Many may wait, and the disk may be slow: that is no failure as long as one after the other is done.
        while self._done != before:
            before = self._done
            # Shielded, so that who is cancelled knows that nothing is written behind his back.
            with anyio.move_on_after(within, shield=True):
                return await asyncio.shield(outcome)
        outcome.cancel()
        raise StoreUnavailable(f"The store did not write within {within:g} s; check the disk")

    async def aclose(self) -> None:
        """Do what waits, then end the thread and close the connection."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await anyio.to_thread.run_sync(self._thread.join)

    def _work(self) -> None:
        going = True
        while going:
            first = self._jobs.get()
            group = [first]
            while len(group) < _GROUP and not self._jobs.empty():
                group.append(self._jobs.get())
            going = None not in group
            jobs = [job for job in group if job is not None and job.future.set_running_or_notify_cancel()]
            if jobs:
                self._settle(jobs)
        self._connection.close()

    def _settle(self, jobs: list[_Job]) -> None:
        try:
            outcomes = self._transact(jobs)
        except sqlite3.Error as error:
            if len(jobs) > 1:
                # Nothing of the group was kept. One by one, only those fail that are to blame or find no room.
                for job in jobs:
                    self._settle([job])
                return
            outcomes = [self._translate(error)]
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _transact(self, jobs: list[_Job]) -> list[object]:
        """What each write returned or raised, after the commit.

        Raises:
            sqlite3.Error: SQLite gave the whole transaction up.
        """
        connection = self._connection
        outcomes: list[object] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                outcomes.append(self._one(job))
                self._done += 1
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes

    def _one(self, job: _Job) -> object:
        connection = self._connection
        connection.execute("SAVEPOINT one")
        try:
            outcome = cast("object", job.write(connection))
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            return self._translate(error) if isinstance(error, sqlite3.Error) else error
        connection.execute("RELEASE one")
        return outcome
