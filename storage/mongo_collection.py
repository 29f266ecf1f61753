"""A collection in MongoDB. Every write is safe to repeat: it names the version it replaces, and leaves its mark.

The mark is what tells, after a lost answer, an applied write of ours from somebody else's with the same content.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DuplicateKeyError

from .collection import CollectionSpec, Document, Index, StoredCollection, Value
from .documents import as_value, encode, is_value, version_of
from .errors import DocumentMissing, VersionConflict
from .ids import new_id
from .mongo_documents import MARK, from_stored, to_stored
from .mongo_errors import duplicate, there_already
from .mongo_link import MongoLink
from .mongo_query import Filter, index_hint, matching, order, within
from .query import Query, check_limit, plan
from .shown import shown

_Database = AsyncDatabase[Document]
_PURGED_AT_ONCE = 500


class MongoCollection(StoredCollection):
    """Made by `MongoDatabase.collection`, after its indexes.

    Args:
        spec: As declared.
        link: The way to the server.
        ping: The database's own.
    """

    def __init__(self, spec: CollectionSpec, *, link: MongoLink, ping: Callable[[], Awaitable[None]]) -> None:
        self.spec = spec
        self._link = link
        self._ping = ping

    async def insert(self, document: Mapping[str, Any]) -> Document:
        """Store a new document; see `Collection`."""
        return await self._insert(document, 1)

    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store new documents by one command; see `Collection`."""
        mark = new_id()
        sent = [to_stored(encode(self.spec, document, version=1)[0], mark) for document in documents]

        async def attempt(database: _Database) -> list[str]:
            try:
                await database[self.spec.name].insert_many(sent, ordered=False)
            except BulkWriteError as error:
                return [sent[place]["_id"] for place in there_already(error)]
            return []

        return await self._link.write(attempt, attempt) if sent else []

    async def put(self, document: Mapping[str, Any]) -> Document:
        """Store a new document with its version; see `StoredCollection`."""
        return await self._insert(document, version_of(self.spec, document))

    async def get(self, document_id: str) -> Document | None:
        """The document of that id; see `Collection`."""
        if not is_value(document_id):
            return None
        found = await self._link.read(lambda database: self._stands(database, document_id))
        return None if found is None else from_stored(found)

    async def walk(self, *, after: str = "", limit: int = 100) -> list[Document]:
        """Documents in the order of their ids; see `StoredCollection`."""
        check_limit(limit)
        beyond: Filter = {"_id": {"$gt": as_value("_id", after)}}
        return await self._listed(beyond, sort=[("_id", 1)], hint="_id_", limit=limit)

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
        wanted = matching(query)
        if wanted is None:
            return []
        return await self._listed(wanted, sort=order(query), hint=index_hint(index), limit=limit)

    async def replace(self, document: Mapping[str, Any]) -> Document:
        """Store a document in place of the one it was made from; see `Collection`."""
        seen = version_of(self.spec, document)
        stored, _ = encode(self.spec, document, version=seen + 1)
        document_id: str = stored["_id"]
        mark = new_id()
        sent = to_stored(stored, mark)

        async def swapped(database: _Database) -> bool:
            one: Filter = {"_id": document_id, "version": seen}
            return (await database[self.spec.name].replace_one(one, sent)).matched_count == 1

        async def attempt(database: _Database) -> None:
            if not await swapped(database):
                found = await self._stands(database, document_id)
                raise self._missing(document_id) if found is None else self._conflict(found, seen)

        async def again(database: _Database) -> None:
            if await swapped(database):
                return
            found = await self._stands(database, document_id)
            if found is not None and found.get(MARK) == mark:
                return
            # One version on and not ours: another write took this one's place. Further on, ours may lie beneath.
            if found is not None and found["version"] == seen + 1:
                raise self._conflict(found, seen)
            raise self._link.in_doubt(f"replacing {shown(document_id)} of {self.spec.name}")

        await self._link.write(attempt, again)
        return stored

    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        """Remove a document; see `Collection`."""
        if not is_value(document_id):
            return False
        one: Filter = {"_id": document_id} if version is None else {"_id": document_id, "version": version}

        async def attempt(database: _Database) -> bool:
            if (await database[self.spec.name].delete_one(one)).deleted_count:
                return True
            found = None if version is None else await self._stands(database, document_id)
            if version is not None and found is not None:
                raise self._conflict(found, version)
            return False

        async def again(database: _Database) -> bool:
            if await attempt(database):
                return True
            # It is gone, and nobody knows by whom: True to two callers would be worse than no answer.
            raise self._link.in_doubt(f"deleting {shown(document_id)} of {self.spec.name}")

        return await self._link.write(attempt, again)

    async def ping(self) -> None:
        """Return if documents can be read and written now; see `Collection`."""
        await self._ping()

    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        """How many documents there are; see `Collection`."""
        wanted = matching(plan(self.spec, index, equal))
        if wanted is None:
            return 0
        return await self._link.read(
            lambda database: database[self.spec.name].count_documents(wanted, hint=index_hint(index))
        )

    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        """Remove documents below a value; see `Collection`."""
        query = plan(self.spec, index, equal, high=below, limit=limit)
        removed, more = 0, True
        while more and removed < limit:
            most = min(limit - removed, _PURGED_AT_ONCE)
            found, gone = await self._link.write(lambda database, most=most: self._purge(database, query, most))
            removed += gone
            more = found == most
        return removed

    async def _insert(self, document: Mapping[str, Any], version: int) -> Document:
        stored, _ = encode(self.spec, document, version=version)
        document_id: str = stored["_id"]
        mark = new_id()
        sent = to_stored(stored, mark)

        async def attempt(database: _Database) -> None:
            await database[self.spec.name].insert_one(sent)

        async def again(database: _Database) -> None:
            try:
                await attempt(database)
            except DuplicateKeyError as error:
                found = await self._stands(database, document_id)
                if found is not None and found.get(MARK) == mark:
                    return
                # Changed or gone since, it may have been ours.
                gone = found is None and duplicate(error).index == "_id"
                if gone or (found is not None and found["version"] > version):
                    raise self._link.in_doubt(f"inserting {shown(document_id)} into {self.spec.name}") from error
                raise

        await self._link.write(attempt, again)
        return stored

    async def _listed(self, wanted: Filter, *, sort: list[tuple[str, int]], hint: str, limit: int) -> list[Document]:
        async def ask(database: _Database) -> list[Document]:
            cursor = database[self.spec.name].find(wanted, hint=hint, limit=limit, batch_size=limit)
            return await (cursor.sort(sort) if sort else cursor).to_list()

        return [from_stored(found) for found in await self._link.read(ask)]

    async def _stands(self, database: _Database, document_id: str) -> Document | None:
        return await database[self.spec.name].find_one({"_id": document_id})

    async def _purge(self, database: _Database, query: Query, most: int) -> tuple[int, int]:
        """How many were found, and how many of them are gone."""
        raw = database[self.spec.name]
        wanted = matching(query)
        if wanted is None:
            return 0, 0
        found = await raw.find(
            wanted, {"_id": 1}, sort=order(query), hint=index_hint(query.index), limit=most
        ).to_list()
        if not found:
            return 0, 0
        # What was changed since it was found is spared if it does not match any more.
        doomed = within(query, [document["_id"] for document in found])
        return len(found), (await raw.delete_many(doomed)).deleted_count

    def _missing(self, document_id: str) -> DocumentMissing:
        return DocumentMissing(f"There is no document {shown(document_id)} in {self.spec.name}")

    def _conflict(self, found: Document, seen: int) -> VersionConflict:
        return VersionConflict(
            f"Document {shown(found['_id'])} of {self.spec.name} has version {found['version']}, not {seen}: "
            "read it again"
        )
