"""Any sequence of calls gives what a dictionary and a sort would give."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.errors import DocumentMissing, DuplicateKey, VersionConflict
from storage.ids import new_id
from storage.mongo import MongoDatabase
from storage.sqlite import SqliteDatabase

T = TypeVar("T")
Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Database]]
BY_RANK = Index(name="by_rank", fields=("owner", "rank"))
BY_NICK = Index(name="by_nick", fields=("nick",), unique=True, sparse=True)
SPEC = CollectionSpec(name="things", indexes=(BY_RANK, BY_NICK))

ids = st.sampled_from(["a", "b", "c", "é", "😀"])
owners = st.sampled_from(["x", "y", "ÿ"])
ranks = st.integers(-2, 2) | st.sampled_from([-(2**63), 2**63 - 1])
fields: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {"_id": ids, "owner": owners, "rank": ranks},
    optional={"nick": st.sampled_from(["n", "m"]), "more": st.text(max_size=3) | st.none() | st.booleans()},
)
calls = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), fields),
        st.tuples(st.just("replace"), fields, st.integers(1, 3)),
        st.tuples(st.just("delete"), ids, st.none() | st.integers(1, 3)),
        st.tuples(st.just("find"), owners, st.booleans(), st.none() | ranks, st.none() | ranks, st.integers(1, 4)),
        st.tuples(st.just("purge"), owners, ranks, st.integers(1, 3)),
    ),
    max_size=40,
)


class Model:
    """The contract as a dictionary."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    def insert(self, document: Document) -> Document:
        self._check_unique(document)
        if document["_id"] in self.documents:
            raise DuplicateKey("things", "_id")
        return self.documents.setdefault(document["_id"], {**document, "version": 1})

    def replace(self, document: Document, version: int) -> Document:
        self._check_version(document["_id"], version)
        self._check_unique(document)
        stored = self.documents[document["_id"]] = {**document, "version": version + 1}
        return stored

    def delete(self, document_id: str, version: int | None) -> bool:
        if document_id not in self.documents:
            return False
        if version is not None:
            self._check_version(document_id, version)
        return bool(self.documents.pop(document_id))

    def find(self, owner: str, descending: bool, low: int | None, high: int | None, limit: int) -> list[Document]:
        found = [
            document
            for document in self.documents.values()
            if document["owner"] == owner
            and (low is None or document["rank"] >= low)
            and (high is None or document["rank"] < high)
        ]
        found.sort(key=lambda document: (document["rank"], document["_id"]), reverse=descending)
        return found[:limit]

    def purge(self, owner: str, below: int, limit: int) -> int:
        found = self.find(owner, False, None, below, limit)
        for document in found:
            del self.documents[document["_id"]]
        return len(found)

    def _check_version(self, document_id: str, version: int) -> None:
        if document_id not in self.documents:
            raise DocumentMissing("")
        if self.documents[document_id]["version"] != version:
            raise VersionConflict("")

    def _check_unique(self, document: Document) -> None:
        for other in self.documents.values():
            if "nick" in document and other.get("nick") == document["nick"] and other["_id"] != document["_id"]:
                raise DuplicateKey("things", "by_nick")


async def told(things: Collection, call: tuple[Any, ...]) -> object:
    match call:
        case ("insert", document):
            return await things.insert(document)
        case ("replace", document, version):
            return await things.replace({**document, "version": version})
        case ("delete", document_id, version):
            return await things.delete(document_id, version=version)
        case ("find", owner, descending, low, high, limit):
            return await things.find(BY_RANK, {"owner": owner}, descending=descending, low=low, high=high, limit=limit)
        case (_, owner, below, limit):
            return await things.purge(BY_RANK, {"owner": owner}, below=below, limit=limit)
        case _:
            raise AssertionError(call)


def answered(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except (DuplicateKey, VersionConflict, DocumentMissing) as error:
        return type(error)


@asynccontextmanager
async def on_sqlite() -> AsyncGenerator[Database]:
    with tempfile.TemporaryDirectory() as directory:
        async with SqliteDatabase(Path(directory) / "store.db") as database:
            yield database


def on_mongo(uri: str) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Database]:
        name = f"casemate_test_{new_id()}"
        async with MongoDatabase(uri, name) as database:
            yield database
        with MongoClient[Document](uri) as client:
            await anyio.to_thread.run_sync(client.drop_database, name)

    return opened


@pytest.fixture(scope="module", params=["sqlite", "mongo"])
def store(request: pytest.FixtureRequest) -> Open:
    return on_sqlite if request.param == "sqlite" else on_mongo(request.getfixturevalue("mongo_uri"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(sequence=calls)
def test_the_store_agrees_with_a_dictionary(store: Open, sequence: list[tuple[Any, ...]]) -> None:
    async def compare() -> None:
        async with store() as database:
            things = await database.collection(SPEC)
            model = Model()
            for call in sequence:
                expected = answered(lambda call=call: getattr(model, call[0])(*call[1:]))
                try:
                    seen = await told(things, call)
                except (DuplicateKey, VersionConflict, DocumentMissing) as error:
                    seen = type(error)
                assert seen == expected, call
            for document in model.documents.values():
                assert await things.get(document["_id"]) == document
            assert await things.walk() == sorted(model.documents.values(), key=lambda document: document["_id"])
            assert await things.count(BY_RANK) == len(model.documents)

    anyio.run(compare)
