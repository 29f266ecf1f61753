"""A collection in SQLite: one table of JSON texts, and one index on their fields for each that is declared."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from .collection import CollectionSpec, Document, Index, StoredCollection, Value
from .documents import as_text, as_value, encode, is_value, version_of
from .errors import DocumentMissing, VersionConflict
from .query import Query, check_limit, plan
from .shown import shown

T = TypeVar("T")
_COLUMNS = {"_id": "id", "version": "version"}


class Run(Protocol):
    """Does something with a connection off the event loop."""

    def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> Awaitable[T]:
        """What the work returned; its SQLite errors become the store's."""
        ...


class SqliteCollection(StoredCollection):
    """Made by `SqliteDatabase.collection`, after the table.

    Args:
        spec: As declared.
        read: Runs a query.
        write: Runs a change in a transaction.
        ping: The database's own.
    """

    def __init__(self, spec: CollectionSpec, *, read: Run, write: Run, ping: Callable[[], Awaitable[None]]) -> None:
        self.spec = spec
        self._read = read
        self._write = write
        self._ping = ping

    async def insert(self, document: Mapping[str, Any]) -> Document:
        """Store a new document; see `Collection`."""
        return await self._insert(document, 1)

    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store new documents in one transaction; see `Collection`."""
        texts = [as_text(self.spec, {**document, "version": 1}) for document in documents]
        rows = [(document["_id"], 1, text) for document, text in zip(documents, texts, strict=True)]
        sql = self._sql("INSERT INTO TABLE_NAME (id, version, body) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING")

        def store(connection: sqlite3.Connection) -> list[str]:
            return [row[0] for row in rows if not _changed(connection, sql, row)]

        return await self._write(store) if rows else []

    async def put(self, document: Mapping[str, Any]) -> Document:
        """Store a new document with its version; see `StoredCollection`."""
        return await self._insert(document, version_of(self.spec, document))

    async def get(self, document_id: str) -> Document | None:
        """The document of that id; see `Collection`."""
        if not is_value(document_id):
            return None
        sql = self._sql("SELECT body FROM TABLE_NAME WHERE id = ?")
        found = await self._read(lambda connection: _documents(connection, sql, (document_id,)))
        return found[0] if found else None

    async def walk(self, *, after: str = "", limit: int = 100) -> list[Document]:
        """Documents in the order of their ids; see `StoredCollection`."""
        check_limit(limit)
        sql, values = (
            self._sql("SELECT body FROM TABLE_NAME WHERE id > ? ORDER BY id LIMIT ?"),
            (as_value("_id", after), limit),
        )
        return await self._read(lambda connection: _documents(connection, sql, values))

    async def find(
        self,
        index: Index,
        equal: Mapping[str, Value] | None = None,
        *,
        descending: bool = False,
        after: Mapping[str, Any] | None = None,
        low: Value | None = None,
        high: Value | None = None,
        limit: int = 100,
    ) -> list[Document]:
        """Documents by an index; see `Collection`."""
        query = plan(self.spec, index, equal, after=after, low=low, high=high, descending=descending, limit=limit)
        sql, values = select(self.spec, query, "body")
        return await self._read(lambda connection: _documents(connection, sql, values))

    async def replace(self, document: Mapping[str, Any]) -> Document:
        """Store a document in place of the one it was made from; see `Collection`."""
        seen = version_of(self.spec, document)
        stored, text = encode(self.spec, document, version=seen + 1)
        document_id: str = stored["_id"]
        sql = self._sql("UPDATE TABLE_NAME SET version = ?, body = ? WHERE id = ? AND version = ?")

        def change(connection: sqlite3.Connection) -> None:
            if not _changed(connection, sql, (seen + 1, text, document_id, seen)):
                stands = self._version(connection, document_id)
                raise self._missing(document_id) if stands is None else self._conflict(document_id, stands, seen)

        await self._write(change)
        return stored

    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        """Remove a document; see `Collection`."""
        if not is_value(document_id):
            return False
        sql = self._sql("DELETE FROM TABLE_NAME WHERE id = ?")

        def change(connection: sqlite3.Connection) -> bool:
            if version is not None:
                stands = self._version(connection, document_id)
                if stands not in {None, version}:
                    raise self._conflict(document_id, stands, version)
            return bool(_changed(connection, sql, (document_id,)))

        return await self._write(change)

    async def ping(self) -> None:
        """Return if documents can be read and written now; see `Collection`."""
        await self._ping()

    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        """How many documents there are; see `Collection`."""
        source, values = _source(self.spec, plan(self.spec, index, equal))
        sql = " ".join(("SELECT count(*) FROM", source))
        return await self._read(lambda connection: int(connection.execute(sql, values).fetchone()[0]))

    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        """Remove documents below a value; see `Collection`."""
        inner, values = select(self.spec, plan(self.spec, index, equal, high=below, limit=limit), "rowid")
        sql = self._sql("DELETE FROM TABLE_NAME WHERE rowid IN (INNER)").replace("INNER", inner)
        return await self._write(lambda connection: _changed(connection, sql, values))

    async def _insert(self, document: Mapping[str, Any], version: int) -> Document:
        stored, text = encode(self.spec, document, version=version)
        sql = self._sql("INSERT INTO TABLE_NAME (id, version, body) VALUES (?, ?, ?)")
        await self._write(lambda connection: _changed(connection, sql, (stored["_id"], version, text)))
        return stored

    def _sql(self, text: str) -> str:
        return text.replace("TABLE_NAME", _table(self.spec))

    def _version(self, connection: sqlite3.Connection, document_id: str) -> int | None:
        sql = self._sql("SELECT version FROM TABLE_NAME WHERE id = ?")
        row: tuple[int] | None = connection.execute(sql, (document_id,)).fetchone()
        return None if row is None else row[0]

    def _missing(self, document_id: str) -> DocumentMissing:
        return DocumentMissing(f"There is no document {shown(document_id)} in {self.spec.name}")

    def _conflict(self, document_id: str, stands: int | None, seen: int) -> VersionConflict:
        return VersionConflict(
            f"Document {shown(document_id)} of {self.spec.name} has version {stands}, not {seen}: read it again"
        )


def create_table(spec: CollectionSpec) -> str:
    """The statement that makes a collection's table."""
    return f"CREATE TABLE {_table(spec)} (id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL)"


def create_index(spec: CollectionSpec, index: Index) -> str:
    """The statement that makes an index."""
    columns = ", ".join(_column(field) for field in index.order)
    sql = f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {index_name(spec, index)} ON {_table(spec)} ({columns})"
    return f"{sql} WHERE {' AND '.join(_present(index))}" if index.sparse else sql


def index_name(spec: CollectionSpec, index: Index) -> str:
    """The index's name in the file: names of indexes are unique in all of it."""
    return f"{spec.name}__{index.name}"


def select(spec: CollectionSpec, query: Query, columns: str) -> tuple[str, tuple[Value, ...]]:
    """The statement and the values of a query."""
    source, values = _source(spec, query)
    order = ", ".join(f"{_column(field)}{' DESC' if query.descending else ''}" for field in query.rest)
    parts = ("SELECT", columns, "FROM", source, f"ORDER BY {order}" if order else "", "LIMIT ?")
    return " ".join(parts), (*values, query.limit)


def _source(spec: CollectionSpec, query: Query) -> tuple[str, tuple[Value, ...]]:
    terms = [f"{_column(field)} = ?" for field, _ in query.equal]
    values = [value for _, value in query.equal]
    if query.low is not None:
        terms.append(f"{_column(query.rest[0])} >= ?")
        values.append(query.low)
    if query.high is not None:
        terms.append(f"{_column(query.rest[0])} < ?")
        values.append(query.high)
    if query.after:
        columns = ", ".join(_column(field) for field in query.rest)
        marks = ", ".join("?" for _ in query.rest)
        beyond = "<" if query.descending else ">"
        terms.append(f"({columns}) {beyond} ({marks})")
        values.extend(query.after)
        # Implied by the comparison of rows, for which SQLite does not use an index on expressions.
        terms.append(f"{_column(query.rest[0])} {beyond}= ?")
        values.append(query.after[0])
    if query.index.sparse:
        terms.extend(_present(query.index))
    # INDEXED BY makes SQLite refuse the statement rather than scan the table.
    source = f"{_table(spec)} INDEXED BY {index_name(spec, query.index)}"
    return f"{source} WHERE {' AND '.join(terms)}" if terms else source, tuple(values)


def _present(index: Index) -> Iterable[str]:
    return (f"{_column(field)} IS NOT NULL" for field in index.fields)


def _table(spec: CollectionSpec) -> str:
    # The name was checked when the collection was declared, but it may be a word of SQL.
    return f'"{spec.name}"'


def _column(field: str) -> str:
    # Names of fields are checked when the collection is declared: letters, digits and underscores.
    return _COLUMNS.get(field, f"json_extract(body, '$.{field}')")


def _documents(connection: sqlite3.Connection, sql: str, values: tuple[Value, ...]) -> list[Document]:
    return [json.loads(row[0]) for row in connection.execute(sql, values).fetchall()]


def _changed(connection: sqlite3.Connection, sql: str, values: tuple[Value, ...]) -> int:
    return connection.execute(sql, values).rowcount
