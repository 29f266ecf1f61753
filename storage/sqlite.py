"""The embedded database: SQLite in one file, with one writing thread and a few readers, used by one process."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from .collection import CollectionSpec, Database
from .documents import check_spec
from .errors import InvalidQuery, StoreCorrupt, StoreError, StoreNewer, StoreReadOnly, StoreUnavailable
from .lock import FileLock
from .sqlite_collection import SqliteCollection, create_index, create_table, index_name
from .sqlite_errors import translated
from .sqlite_writer import DEADLINE_S, SqliteWriter

T = TypeVar("T")

FORMAT = 1
APPLICATION = int.from_bytes(b"CSMT")
_READERS = 4
_BUSY_S = 5
_PING_S = 5


class SqliteDatabase(Database):
    """Collections in a file.

    Args:
        path: The file. It and its directory are created for the owner alone; the write-ahead log and the lock file are
            next to it.
        max_bytes: The maximum size of the file; 0 for no limit besides the disk.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        self._writer: SqliteWriter | None = None
        self._readers = anyio.CapacityLimiter(_READERS)
        # Not the shared thread pool, whose threads may be busy for long.
        self._threads = anyio.CapacityLimiter(_READERS)
        self._idle: list[sqlite3.Connection] = []

    async def open(self) -> None:
        """Take the lock and open the file.

        Raises:
            StoreLocked: Another process has the store open.
            StoreNewer: A newer release wrote the store.
            StoreCorrupt: The file is damaged or is not a store.
            StoreReadOnly: The file cannot be written.
        """
        if self._writer is not None:
            raise StoreUnavailable(f"The store {self._path} is already open")
        self._writer = SqliteWriter(await anyio.to_thread.run_sync(self._prepare), self._translated)

    async def collection(self, spec: CollectionSpec) -> SqliteCollection:
        """Return the declared collection; see `Database`."""
        check_spec(spec)
        await self._write(lambda connection: _declare(connection, spec))
        return SqliteCollection(spec, read=self._read, write=self._write, ping=self.ping)

    async def ping(self) -> None:
        """Check that the store answers; see `Database`."""
        # Through the writer, because a store that can only be read is not usable.
        await self._opened().run(
            lambda connection: connection.execute(f"PRAGMA user_version = {FORMAT}").close(), within=_PING_S
        )

    async def aclose(self) -> None:
        """Complete running operations, checkpoint the write-ahead log, and release the lock."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with anyio.CancelScope(shield=True):
            # Once all slots are taken, no read is running.
            for reader in range(_READERS):
                await self._readers.acquire_on_behalf_of((self, reader))
            while self._idle:
                self._idle.pop().close()
            # The writer's connection is the last one: closing it checkpoints the write-ahead log.
            await writer.aclose()
            self._lock.release()
            for reader in range(_READERS):
                self._readers.release_on_behalf_of((self, reader))

    async def _write(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        return await self._opened().run(work)

    async def _read(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        async with self._readers:
            self._opened()
            connection = self._idle.pop() if self._idle else None
            with anyio.move_on_after(DEADLINE_S, shield=True):
                return await anyio.to_thread.run_sync(
                    self._query, work, connection, abandon_on_cancel=True, limiter=self._threads
                )
            raise StoreUnavailable(
                f"A read from the store {self._path} did not finish within {DEADLINE_S:g} s; check the disk"
            )

    def _query(self, work: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection | None) -> T:
        try:
            if connection is None:
                connection = self._connect(lambda fresh: fresh.execute("PRAGMA query_only = ON"))
            return work(connection)
        except sqlite3.Error as error:
            raise self._translated(error) from error
        finally:
            if connection is not None:
                self._idle.append(connection)

    def _opened(self) -> SqliteWriter:
        if self._writer is None:
            raise StoreUnavailable(f"The store {self._path} is not open")
        return self._writer

    def _prepare(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
            # SQLite creates its write-ahead log with the mode of the file.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
            return self._connect(self._set_up)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, sqlite3.Error):
                raise self._translated(error) from error
            if isinstance(error, OSError):
                raise StoreReadOnly(f"Cannot write {self._path}: {error.strerror}; check its owner") from error
            raise

    def _connect(self, set_up: Callable[[sqlite3.Connection], object]) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        fresh = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
        if application != APPLICATION and (application or version or not fresh):
            raise StoreCorrupt(
                f"The file {self._path} is a database of another program; move it away to start with a new store"
            )
        if version > FORMAT:
            raise StoreNewer(
                f"The store {self._path} has format {version}, this release supports {FORMAT}: use a newer release"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        if self._max_bytes:
            page = int(connection.execute("PRAGMA page_size").fetchone()[0])
            connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page)}")

    def _translated(self, error: sqlite3.Error) -> StoreError:
        return translated(self._path, error)


def _declare(connection: sqlite3.Connection, spec: CollectionSpec) -> None:
    wanted = {spec.name: create_table(spec)}
    wanted |= {index_name(spec, index): create_index(spec, index) for index in spec.indexes}
    for name, sql in wanted.items():
        row = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        if row is None:
            connection.execute(sql)
        elif row[0] != sql:
            raise InvalidQuery(
                f"{name} must be declared as {sql}, but the store has it as {row[0]}; give the index another name"
            )
