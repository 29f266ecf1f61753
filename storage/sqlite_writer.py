"""The single thread that writes to SQLite. It groups waiting writes into one transaction, so they share one sync."""

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
    """Runs writes in the order of their arrival, and returns each only after its commit.

    Args:
        connection: In autocommit mode and usable from any thread; the writer takes ownership of it.
        translate: Translates an error of SQLite to an error of the store.
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
        """Run a write; its failure does not affect others. Once begun, it is completed even if the caller is cancelled.

        Args:
            write: The write; errors of SQLite become errors of the store.
            within: Seconds to wait while the writer completes nothing at all; as long as it does, a write waits for its
                turn.

        Raises:
            StoreUnavailable: The write did not finish in time; if it had begun, it may still be applied.
            StoreError: The write failed and changed nothing.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise StoreUnavailable("The store is closed")
        future: Future[T] = Future()
        self._jobs.put(_Job(write, future))
        outcome = asyncio.wrap_future(future)
        before = -1
        # A long queue on a slow disk is not a failure as long as writes complete.
        while self._done != before:
            before = self._done
            # Shielded, so that nothing is written after a cancelled caller has gone on.
            with anyio.move_on_after(within, shield=True):
                return await asyncio.shield(outcome)
        outcome.cancel()
        raise StoreUnavailable(f"A write to the store did not finish within {within:g} s; check the disk")

    async def aclose(self) -> None:
        """Complete the waiting writes, then end the thread and close the connection."""
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
                # The whole group was rolled back. One by one, only those writes fail that caused it or find no space.
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
        """Run the writes in one transaction; return what each returned or raised.

        Raises:
            sqlite3.Error: SQLite rolled back the whole transaction.
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
