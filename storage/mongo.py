"""The database on a MongoDB server: shared by several servers of ours, and out of reach now and then."""

from __future__ import annotations

import re
import warnings
from typing import Any

import anyio
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError

from .collection import CollectionSpec, Database, Document
from .documents import check_spec
from .errors import InvalidQuery, StoreCorrupt, StoreError, StoreNewer
from .mongo_collection import MongoCollection
from .mongo_errors import redacted
from .mongo_link import AT_ONCE, Client, MongoLink
from .mongo_query import index_hint, index_key, index_options
from .shown import shown

FORMAT = 1
MARKER = "store_format"
WITHIN_S = 4.5

_SELECTION_MS = 3000
_CONNECT_MS = 2000
_INDEX_BUILD_S = 600.0
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
# An @ or a slash in a password that is not encoded would move a part of it to where a host or a name is expected.
_URI = re.compile(r"mongodb(\+srv)?://([^/@?]+@)?[^/@?]+(/[^/@:?]*)?(\?[^@]*)?")


class MongoDatabase(Database):
    """Collections in a database of a MongoDB server, 4.4 or later.

    Args:
        uri: The server's address; user and password percent-encoded. It is in no message.
        name: The database, used by nothing else.
        within_s: Seconds within which every call ends, with StoreUnavailable if need be, once it is its turn: of many
            at once each waits for its turn as long as others come through, and for as many seconds if none does.

    Raises:
        StoreError: The address or the name cannot be one.
    """

    def __init__(self, uri: str, name: str, *, within_s: float = WITHIN_S) -> None:
        if not _URI.fullmatch(uri):
            raise StoreError(
                "The store's address must be mongodb://USER:PASSWORD@HOST:PORT/?OPTIONS, with special characters "
                f"of user and password percent-encoded; this one is for {shown(redacted(uri))}"
            )
        if not _NAME.fullmatch(name):
            raise StoreError(f"The database's name {shown(name)} must match {_NAME.pattern}")
        self._uri = uri
        self._name = name
        self._link = MongoLink(redacted(uri), name, within_s=within_s)

    async def open(self) -> None:
        """Connect, and see that what is there is ours.

        Raises:
            StoreUnavailable: The server does not answer.
            StoreNewer: A later release wrote it.
            StoreCorrupt: It is another program's.
            StoreReadOnly: It may not be written.
        """
        self._link.start(self._connected())
        try:
            await self._link.write(self._mark, self._mark)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._link.aclose()
            raise

    async def collection(self, spec: CollectionSpec) -> MongoCollection:
        """The collection as declared; see `Database`."""
        check_spec(spec)

        async def declare(database: AsyncDatabase[Document]) -> None:
            await self._declare(database, spec)

        await self._link.write(declare, declare, within_s=_INDEX_BUILD_S)
        return MongoCollection(spec, link=self._link, ping=self.ping)

    async def ping(self) -> None:
        """Return if the store answers; see `Database`."""
        # A write that changes nothing: a server that can be read but not written is not fit for use.
        await self._link.write(self._touch, self._touch)

    async def aclose(self) -> None:
        """Finish what was begun and hang up."""
        await self._link.aclose()

    def _connected(self) -> Client:
        try:
            with warnings.catch_warnings():
                # The driver ignores an option that it does not understand; it might be the one that demands TLS.
                warnings.simplefilter("error")
                return AsyncMongoClient(
                    self._uri,
                    appname="casemate",
                    tz_aware=True,
                    readPreference="primary",
                    # What is acknowledged survives the loss of a server, and of its power.
                    w="majority",
                    journal=True,
                    # The driver repeats writes on replica sets only. The collection settles them everywhere, in one
                    # way that the tests go through; two ways would be one that they do not.
                    retryWrites=False,
                    retryReads=True,
                    serverSelectionTimeoutMS=_SELECTION_MS,
                    connectTimeoutMS=_CONNECT_MS,
                    maxPoolSize=AT_ONCE,
                )
        except (PyMongoError, ValueError, TypeError, OSError, Warning):
            # Not chained: the driver's text may quote a part of the address.
            reason = f"The store's address for {self._link.where} has an option or a part that the driver does not take"
        raise StoreError(f"{reason}; compare it with MongoDB's connection string format")

    async def _mark(self, database: AsyncDatabase[Document]) -> None:
        markers = database[MARKER]
        marker = await markers.find_one({"_id": "format"})
        if marker is None:
            others = [name for name in await database.list_collection_names() if not name.startswith("system.")]
            # Another server of ours makes the marker first, so whoever sees its collections sees the marker.
            if set(others) - {MARKER} and await markers.find_one({"_id": "format"}) is None:
                raise StoreCorrupt(
                    f"Database {self._name} at {self._link.where} is another program's; choose another name"
                )
            try:
                await markers.insert_one({"_id": "format", "version": FORMAT})
            except DuplicateKeyError:
                marker = await markers.find_one({"_id": "format"})
        self._check(marker or {"version": FORMAT})
        await self._touch(database)

    async def _touch(self, database: AsyncDatabase[Document]) -> None:
        one: Document = {"_id": "format", "version": FORMAT}
        if (await database[MARKER].update_one(one, {"$set": {"version": FORMAT}})).matched_count:
            return
        marker = await database[MARKER].find_one({"_id": "format"})
        if marker is None:
            raise StoreCorrupt(
                f"Database {self._name} at {self._link.where} was emptied or dropped; restore it from a copy"
            )
        self._check(marker)

    def _check(self, marker: Document) -> None:
        version = marker.get("version")
        if not isinstance(version, int) or version > FORMAT:
            raise StoreNewer(
                f"Database {self._name} at {self._link.where} has format {shown(version)}, this release knows "
                f"{FORMAT}: use the newer release"
            )

    async def _declare(self, database: AsyncDatabase[Document], spec: CollectionSpec) -> None:
        raw = database[spec.name]
        there: dict[str, Any] = dict(await raw.index_information())
        for index in spec.indexes:
            wanted = {"key": index_key(index), **index_options(index)}
            found = there.get(index_hint(index))
            if found is None:
                await raw.create_index(index_key(index), name=index.name, **index_options(index))
            elif index_hint(index) != "_id_" and wanted != _comparable(found):
                raise InvalidQuery(
                    f"The store has index {index.name} of {spec.name} declared otherwise: {_comparable(found)}, not "
                    f"{wanted}; give the index another name"
                )


def _comparable(found: dict[str, Any]) -> dict[str, Any]:
    # A hidden, partial or otherwise changed index is not the one that was declared.
    passive = {"v", "ns", "background", "name"}
    return {name: value for name, value in found.items() if name not in passive and value is not False}
