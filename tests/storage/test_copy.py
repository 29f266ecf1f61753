"""From one store to another and back: everything arrives, versions included, however often it was interrupted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from storage.collection import CollectionSpec, Database, Document, Index, StoredCollection
from storage.copy import copy_store
from storage.errors import InvalidQuery, StoreError, StoreFull, StoreUnavailable
from storage.ids import new_id
from storage.mongo import MongoDatabase
from storage.sqlite import SqliteDatabase
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_NICK = Index(name="by_nick", fields=("nick",), unique=True, sparse=True)
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER, BY_NICK))
OTHERS = CollectionSpec(name="others", indexes=(BY_OWNER,))
EMPTY = CollectionSpec(name="empty")
SPECS = (THINGS, OTHERS, EMPTY)


@pytest.fixture(params=["sqlite to mongo", "mongo to sqlite", "sqlite to sqlite"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Database, Database]]:
    def made(kind: str, name: str) -> Database:
        return SqliteDatabase(tmp_path / name) if kind == "sqlite" else request.getfixturevalue("mongo")

    old, _, new = request.param.partition(" to ")
    async with made(old, "old.db") as source, made(new, "new.db") as target:
        yield source, target


def thing(number: int) -> Document:
    nick = {"nick": f"n{number}"} if number % 3 == 0 else {}
    strange = {"a.b": 1, "$set": {"$ref": "x", "$id": None}, "%24": 0.5, "nul\0": "\0", "big": 2**62}
    return {"_id": new_id(), "owner": f"o{number % 7}", "labels": strange, **nick}


async def fill(collection: StoredCollection, many: int) -> None:
    for number in range(many):
        stored = await collection.insert(thing(number))
        if number % 5 == 0:
            await collection.replace(stored)


async def whole(collection: StoredCollection) -> list[Document]:
    return await collection.walk(limit=10_000)


def silent(name: str, done: int) -> None:
    assert name
    assert done


async def test_everything_arrives_as_it_was(stores: tuple[Database, Database]) -> None:
    source, target = stores
    await fill(await source.collection(THINGS), 450)
    await fill(await source.collection(OTHERS), 200)
    told: list[tuple[str, int]] = []
    counted = await copy_store(source, target, SPECS, tell=lambda name, done: told.append((name, done)))
    assert counted == {"things": 450, "others": 200, "empty": 0}
    assert told == [("things", 200), ("things", 400), ("things", 450), ("others", 200)]
    for spec in SPECS:
        old, new = await source.collection(spec), await target.collection(spec)
        assert await whole(new) == await whole(old)
    things = await target.collection(THINGS)
    assert await things.count(BY_NICK) == 150
    (found,) = await things.find(BY_NICK, {"nick": "n0"})
    assert found["version"] == 2
    assert (await things.replace(found))["version"] == 3


async def test_copying_again_changes_nothing(stores: tuple[Database, Database]) -> None:
    source, target = stores
    await fill(await source.collection(THINGS), 30)
    for _ in range(2):
        assert (await copy_store(source, target, SPECS, tell=silent))["things"] == 30


@pytest.mark.parametrize("difference", ["more", "other"])
async def test_a_target_that_holds_something_else_is_refused_before_anything_is_copied(
    stores: tuple[Database, Database], difference: str
) -> None:
    source, target = stores
    await fill(await source.collection(THINGS), 3)
    (stored,) = [await (await source.collection(OTHERS)).insert(thing(1))]
    others = await target.collection(OTHERS)
    strange = await others.insert(thing(2) if difference == "more" else {**stored, "owner": "somebody else"})
    with pytest.raises(InvalidQuery, match=strange["_id"]):
        await copy_store(source, target, SPECS, tell=silent)
    assert await whole(await target.collection(THINGS)) == []
    assert await whole(others) == [strange]


async def test_a_target_with_many_more_documents_is_refused(stores: tuple[Database, Database]) -> None:
    source, target = stores
    await fill(await target.collection(THINGS), 500)
    with pytest.raises(InvalidQuery):
        await copy_store(source, target, SPECS, tell=silent)


async def test_an_interrupted_copy_is_finished_by_the_next(stores: tuple[Database, Database]) -> None:
    source, target = stores
    await fill(await source.collection(THINGS), 500)

    class PowerCutError(Exception):
        pass

    def cut(name: str, done: int) -> None:
        if done >= 200:
            raise PowerCutError(name)

    with pytest.raises(PowerCutError):
        await copy_store(source, target, SPECS, tell=cut)
    assert len(await whole(await target.collection(THINGS))) == 200
    with anyio.move_on_after(0.05):
        await copy_store(source, target, SPECS, tell=silent)
    assert (await copy_store(source, target, SPECS, tell=silent))["things"] == 500
    assert await whole(await target.collection(THINGS)) == await whole(await source.collection(THINGS))


async def test_a_source_that_is_in_use_is_noticed(stores: tuple[Database, Database]) -> None:
    source, target = stores
    things = await source.collection(THINGS)
    await fill(things, 10)

    class Busy(Database):
        """The source, to which a document is added after it was looked at twice."""

        def __init__(self) -> None:
            self.left = 2

        async def open(self) -> None:
            raise AssertionError

        async def collection(self, spec: CollectionSpec) -> StoredCollection:
            collection = await source.collection(spec)
            if spec is THINGS:
                walk = collection.walk

                async def busy(*, after: str = "", limit: int = 100) -> list[Document]:
                    self.left -= 1
                    found = await walk(after=after, limit=limit)
                    if self.left == 0:
                        await collection.insert(thing(1))
                    return found

                collection.walk = busy
            return collection

        async def ping(self) -> None:
            raise AssertionError

        async def aclose(self) -> None:
            raise AssertionError

    with pytest.raises(StoreUnavailable, match="changed"):
        await copy_store(Busy(), target, SPECS, tell=silent)


async def test_a_full_target_says_so_and_takes_the_rest_later(tmp_path: Path) -> None:
    async with SqliteDatabase(tmp_path / "old.db") as source:
        await fill(await source.collection(THINGS), 300)
        async with SqliteDatabase(tmp_path / "new.db", max_bytes=64 * 1024) as target:
            with pytest.raises(StoreFull):
                await copy_store(source, target, SPECS, tell=silent)
        async with SqliteDatabase(tmp_path / "new.db") as target:
            assert (await copy_store(source, target, SPECS, tell=silent))["things"] == 300


async def test_a_lost_target_ends_in_one_plain_error(tmp_path: Path, mongo: MongoDatabase) -> None:
    async with SqliteDatabase(tmp_path / "old.db") as source, mongo:
        await fill(await source.collection(THINGS), 300)
        closing = [mongo.aclose]

        async def close() -> None:
            await closing.pop()()

        async with anyio.create_task_group() as tasks:

            def tell(name: str, done: int) -> None:
                tasks.start_soon(close, name=f"{name} {done}")

            with pytest.raises(StoreError):
                await copy_store(source, mongo, SPECS, tell=tell)


async def test_ten_thousand_documents_take_seconds(tmp_path: Path, mongo: MongoDatabase) -> None:
    async with SqliteDatabase(tmp_path / "old.db") as source, mongo:
        things = await source.collection(THINGS)
        async with anyio.create_task_group() as tasks:
            for number in range(10_000):
                tasks.start_soon(things.insert, thing(number))
        with anyio.fail_after(PATIENCE_S):
            assert (await copy_store(source, mongo, SPECS, tell=silent))["things"] == 10_000
