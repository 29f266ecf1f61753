"""What every adapter promises of collections and their database: declared, opened and closed."""

from __future__ import annotations

import pytest

from storage.collection import Collection, CollectionSpec, Database, Index
from storage.errors import (
    InvalidQuery,
    StoreUnavailable,
)
from storage.ids import new_id
from tests.storage.things import BY_OWNER, kept, thing

pytestmark = pytest.mark.anyio


async def test_declaring_a_collection_again_gives_the_same_documents(database: Database, things: Collection) -> None:
    (stored,) = await kept(things, thing())
    again = await database.collection(things.spec)
    assert await again.get(stored["_id"]) == stored


async def test_an_index_added_later_finds_what_was_there_before(database: Database, things: Collection) -> None:
    (stored,) = await kept(things, thing(rank=3))
    by_rank_alone = Index(name="by_rank_alone", fields=("rank",))
    wider = CollectionSpec(name="things", indexes=(*things.spec.indexes, by_rank_alone))
    assert await (await database.collection(wider)).find(by_rank_alone, {"rank": 3}) == [stored]


async def test_an_index_of_the_same_name_with_other_fields_is_refused(database: Database, things: Collection) -> None:
    for index in (
        Index(name="by_owner", fields=("rank", "_id")),
        Index(name="by_owner", fields=("owner", "_id"), unique=True),
        Index(name="by_owner", fields=("owner", "_id"), sparse=True),
    ):
        with pytest.raises(InvalidQuery, match="by_owner"):
            await database.collection(CollectionSpec(name=things.spec.name, indexes=(index,)))
    assert await things.find(BY_OWNER) == []


@pytest.mark.parametrize(
    "spec",
    [
        CollectionSpec(name="Things"),
        CollectionSpec(name="x; DROP TABLE y"),
        CollectionSpec(name=""),
        CollectionSpec(name="sqlite_master"),
        CollectionSpec(name="store_format"),
        CollectionSpec(name="system"),
        CollectionSpec(name="things", indexes=(Index(name="a", fields=("x", "y"), sparse=True),)),
        CollectionSpec(name="things", indexes=(Index(name="a", fields=("x",)), Index(name="b", fields=("x", "_id")))),
        CollectionSpec(name="things", indexes=(Index(name="a b", fields=("x",)),)),
        CollectionSpec(name="things", indexes=(Index(name="a", fields=()),)),
        CollectionSpec(name="things", indexes=(Index(name="a", fields=("x", "x")),)),
        CollectionSpec(name="things", indexes=(Index(name="a", fields=("x') --",)),)),
        CollectionSpec(name="things", indexes=(Index(name="a", fields=("x",)), Index(name="a", fields=("y",)))),
    ],
)
async def test_a_declaration_that_cannot_be_is_refused(database: Database, spec: CollectionSpec) -> None:
    with pytest.raises(InvalidQuery):
        await database.collection(spec)


async def test_collections_know_nothing_of_each_other(database: Database, things: Collection) -> None:
    others = await database.collection(CollectionSpec(name="others", indexes=things.spec.indexes))
    (stored,) = await kept(things, thing(email="a@example.org"))
    await others.insert({**stored, "owner": "bob"})
    assert await things.get(stored["_id"]) == stored
    await others.delete(stored["_id"])
    assert await things.get(stored["_id"]) == stored


async def test_a_collection_may_have_the_name_of_a_word_of_the_query_language(database: Database) -> None:
    for name in ("order", "group", "select", "index", "where"):
        words = await database.collection(CollectionSpec(name=name, indexes=(Index(name="by", fields=("from",)),)))
        stored = await words.insert({"_id": new_id(), "from": "x"})
        assert await words.find(words.spec.indexes[0], {"from": "x"}) == [stored]
        assert await words.replace(stored) and await words.count(words.spec.indexes[0]) == 1
        assert await words.purge(words.spec.indexes[0], below="y") == 1


async def test_it_answers_while_it_is_open_and_not_after(database: Database, things: Collection) -> None:
    await database.ping()
    await things.ping()
    await database.aclose()
    await database.aclose()
    for use in (database.ping(), things.ping(), things.get("x"), things.insert(thing()), things.count(BY_OWNER)):
        with pytest.raises(StoreUnavailable):
            await use


async def test_what_is_stored_is_there_after_opening_again(database: Database, things: Collection) -> None:
    (stored,) = await kept(things, thing())
    await database.aclose()
    await database.open()
    assert await (await database.collection(things.spec)).get(stored["_id"]) == stored
