"""What every adapter promises: the same calls, the same answers, the same refusals."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.errors import (
    DocumentMissing,
    DuplicateKey,
    InvalidDocument,
    InvalidQuery,
    StoreUnavailable,
    VersionConflict,
)
from storage.ids import new_id
from storage.sqlite_collection import SqliteCollection

pytestmark = pytest.mark.anyio

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_RANK = Index(name="by_rank", fields=("owner", "rank"))
BY_EMAIL = Index(name="by_email", fields=("email",), unique=True, sparse=True)
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER, BY_RANK, BY_EMAIL))


def thing(owner: str = "alice", rank: float = 0, **more: Any) -> Document:
    return {"_id": new_id(), "owner": owner, "rank": rank, **more}


async def kept(things: Collection, *documents: Document) -> list[Document]:
    return [await things.insert(document) for document in documents]


async def test_a_document_comes_back_as_it_was_stored(things: Collection) -> None:
    document = thing(
        text='quote " slash \\ line \n nul \0 snowman ☃ emoji 😀',
        empty={},
        nested={"list": [1, 2.5, True, None, {"deep": ["x"]}], "dotted.key": 1, "$dollar": 2},
        low=-(2**63),
        high=2**63 - 1,
        nothing=None,
    )
    stored = await things.insert(document)
    assert stored == {**document, "version": 1}
    assert await things.get(document["_id"]) == stored


async def test_many_are_stored_at_once_and_those_that_are_there_are_named_and_left_alone(things: Collection) -> None:
    first, second = await kept(things, thing(rank=1), thing(rank=2))
    changed = await things.replace({**second, "rank": 3})
    fresh = [thing(rank=number, nested={"$a.b": [1, None]}) for number in range(300)]
    there = await things.insert_all([fresh[0], {**first, "rank": 9}, *fresh[1:], {**second, "rank": 9}])
    assert sorted(there) == sorted([first["_id"], second["_id"]])
    assert await things.get(first["_id"]) == first
    assert await things.get(second["_id"]) == changed
    assert [await things.get(document["_id"]) for document in fresh] == [{**it, "version": 1} for it in fresh]
    assert await things.insert_all(fresh) == [document["_id"] for document in fresh]
    assert await things.insert_all([]) == []
    assert await things.count(BY_OWNER) == 302


async def test_one_of_many_that_cannot_be_stored_is_told(things: Collection) -> None:
    await things.insert(thing(email="a@example.org"))
    with pytest.raises(DuplicateKey) as caught:
        await things.insert_all([thing(), thing(email="a@example.org")])
    assert caught.value.index == "by_email"
    before = await things.count(BY_OWNER)
    for bad in (thing(rank=1.5), thing(text="\ud800"), {"owner": "alice", "rank": 1}, thing(_id=7)):
        with pytest.raises(InvalidDocument):
            await things.insert_all([thing(), bad])
    assert await things.count(BY_OWNER) == before


async def test_what_is_returned_shares_nothing_with_what_was_given(things: Collection) -> None:
    document = thing(labels={"a": "b"})
    stored = await things.insert(document)
    document["labels"]["a"] = "changed"
    assert stored["labels"] == {"a": "b"}
    assert "version" not in document


async def test_a_new_document_has_version_one_whatever_it_says(things: Collection) -> None:
    assert (await things.insert(thing(version=7)))["version"] == 1


async def test_an_unknown_id_is_none(things: Collection) -> None:
    assert await things.get(new_id()) is None
    for strange in ("", "\0", "\ud800", "%", "'", "x" * 100_000):
        assert await things.get(strange) is None
        assert await things.delete(strange) is False


async def test_an_id_is_taken_once(things: Collection) -> None:
    (stored,) = await kept(things, thing())
    with pytest.raises(DuplicateKey) as caught:
        await things.insert({**stored, "owner": "bob"})
    assert caught.value.index == "_id"
    assert await things.get(stored["_id"]) == stored


async def test_a_unique_value_is_taken_once(things: Collection) -> None:
    first, second = await kept(things, thing(email="a@example.org"), thing(email="b@example.org"))
    with pytest.raises(DuplicateKey, match="by_email") as caught:
        await things.insert(thing(email="a@example.org"))
    assert caught.value.index == "by_email"
    with pytest.raises(DuplicateKey):
        await things.replace({**second, "email": "a@example.org"})
    assert await things.get(second["_id"]) == second
    await things.delete(first["_id"])
    assert (await things.replace({**second, "email": "a@example.org"}))["version"] == 2


async def test_documents_without_a_sparse_field_do_not_collide_and_are_not_found_by_it(things: Collection) -> None:
    await kept(things, thing(), thing(), thing(email="a@example.org"))
    assert await things.count(BY_EMAIL) == 1


async def test_replacing_moves_the_version_on(things: Collection) -> None:
    (first,) = await kept(things, thing())
    second = await things.replace({**first, "rank": 5})
    assert second == {**first, "rank": 5, "version": 2}
    assert await things.get(first["_id"]) == second


async def test_replacing_an_old_version_is_refused(things: Collection) -> None:
    (first,) = await kept(things, thing())
    second = await things.replace({**first, "rank": 5})
    with pytest.raises(VersionConflict, match=first["_id"]):
        await things.replace({**first, "rank": 6})
    assert await things.get(first["_id"]) == second


async def test_replacing_what_is_not_there_is_refused(things: Collection) -> None:
    with pytest.raises(DocumentMissing):
        await things.replace({**thing(), "version": 1})


@pytest.mark.parametrize("version", [None, 0, -1, 1.0, "1", True, 2**63 - 1])
async def test_a_replacement_must_say_which_version_it_saw(things: Collection, version: object) -> None:
    (stored,) = await kept(things, thing())
    with pytest.raises(InvalidDocument, match="version"):
        await things.replace({**stored, "version": version})


async def test_deleting_says_whether_there_was_something(things: Collection) -> None:
    (stored,) = await kept(things, thing())
    assert await things.delete(stored["_id"]) is True
    assert await things.delete(stored["_id"]) is False
    assert await things.get(stored["_id"]) is None


async def test_deleting_a_version_that_is_no_more_is_refused(things: Collection) -> None:
    (first,) = await kept(things, thing())
    second = await things.replace(first)
    with pytest.raises(VersionConflict):
        await things.delete(first["_id"], version=1)
    assert await things.get(first["_id"]) == second
    assert await things.delete(first["_id"], version=2) is True
    assert await things.delete(first["_id"], version=2) is False


async def test_documents_come_in_the_order_of_the_index(things: Collection) -> None:
    stored = await kept(things, *(thing(rank=rank) for rank in (3, -1, 10, 2, 2)), thing("bob", 0))
    mine = sorted(stored[:5], key=lambda document: (document["rank"], document["_id"]))
    assert await things.find(BY_RANK, {"owner": "alice"}) == mine
    assert await things.find(BY_RANK, {"owner": "alice"}, descending=True) == mine[::-1]
    assert await things.find(BY_RANK, {"owner": "alice", "rank": 2}) == mine[1:3]
    assert await things.find(BY_RANK, {"owner": "nobody"}) == []


async def test_texts_are_ordered_by_code_point(things: Collection) -> None:
    owners = ["", "A", "Z", "a", "b", "é", "z", "Ω", "中", "\ud7ff", "😀", "\U0010ffff"]
    if isinstance(things, SqliteCollection) or os.environ.get("MONGO_TEST_URI"):
        # The test server, unlike MongoDB, orders these after those that UTF-16 makes pairs of.
        owners += ["\ue000", "\uffff"]
    await kept(things, *(thing(owner) for owner in reversed(owners)))
    assert [found["owner"] for found in await things.find(BY_OWNER)] == sorted(owners)
    assert [found["owner"] for found in await things.find(BY_OWNER, low="中", high="😀")] == [
        owner for owner in sorted(owners) if "中" <= owner < "😀"
    ]


MIXED: list[str | int] = [-(2**63), -1, 0, 7, 2**63 - 1, "", "0", "a", "é"]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("low", "high"),
    [(None, None), (0, None), (None, "a"), (0, "a"), ("", None), (None, 7), ("0", 7), (7, 0), ("a", "a")],
)
async def test_integers_come_before_all_texts(
    things: Collection, low: str | int | None, high: str | int | None, descending: bool
) -> None:
    def at(value: str | int) -> tuple[bool, str | int]:
        return isinstance(value, str), value

    # Two of each, so that pages begin among equals too.
    await kept(things, *(thing(rank=0) | {"rank": rank} for rank in (*MIXED, *reversed(MIXED))))
    wanted = [
        value
        for value in MIXED
        for _ in range(2)
        if (low is None or at(value) >= at(low)) and (high is None or at(value) < at(high))
    ]
    found: list[Document] = []
    last: Document | None = None
    while page := await things.find(
        BY_RANK, {"owner": "alice"}, low=low, high=high, descending=descending, after=last, limit=3
    ):
        found += page
        last = page[-1]
    assert [document["rank"] for document in found] == (wanted[::-1] if descending else wanted)
    assert len({document["_id"] for document in found}) == len(found)


@pytest.mark.parametrize(
    ("position", "ascending", "descending"),
    [
        (-5, [1, 2, 3], []),
        (0, [1, 2, 3], []),
        (2, [2, 3], [2, 1]),
        (4, [], [3, 2, 1]),
        (9, [], [3, 2, 1]),
        ("", [], [3, 2, 1]),
    ],
)
async def test_a_page_after_a_position_outside_the_range_stays_within_it(
    things: Collection, position: str | int, ascending: list[int], descending: list[int]
) -> None:
    for rank in range(6):
        await things.insert({**thing(rank=rank), "_id": str(rank)})

    async def ranks(descending: bool) -> list[int]:
        # Before, or after, all that tie with it.
        after = {"rank": position, "_id": "~" if descending else ""}
        found = await things.find(BY_RANK, {"owner": "alice"}, low=1, high=4, after=after, descending=descending)
        return [document["rank"] for document in found]

    assert await ranks(descending=False) == ascending
    assert await ranks(descending=True) == descending


async def test_a_sparse_index_gives_what_has_its_field_in_order(database: Database) -> None:
    by_team = Index(name="by_team", fields=("team",), sparse=True)
    things = await database.collection(CollectionSpec(name="players", indexes=(by_team,)))
    stored = await kept(things, *({"_id": new_id(), "team": team} for team in ("b", "a", "b")), {"_id": new_id()})
    whole = [stored[1], stored[0], stored[2]]
    assert await things.find(by_team) == whole
    assert await things.find(by_team, descending=True) == whole[::-1]
    assert await things.find(by_team, after=whole[1]) == whole[2:]
    assert await things.find(by_team, {"team": "b"}) == whole[1:]
    assert (await things.count(by_team), await things.count(by_team, {"team": "b"})) == (3, 2)
    assert await things.purge(by_team, below="c") == 3
    assert await things.get(stored[3]["_id"]) == stored[3]


async def test_an_index_of_the_id_alone_lists_everything(database: Database) -> None:
    by_id = Index(name="by_id", fields=("_id",))
    things = await database.collection(CollectionSpec(name="listed", indexes=(by_id,)))
    stored = await kept(things, *({"_id": name} for name in ("b", "a", "c")))
    whole = sorted(stored, key=lambda document: str(document["_id"]))
    assert await things.find(by_id) == whole
    assert await things.find(by_id, after={"_id": "a"}, limit=1) == whole[1:2]
    assert await things.find(by_id, {"_id": "b"}) == whole[1:2]
    assert await things.count(by_id) == 3
    assert await things.purge(by_id, below="b") == 1


async def test_walking_gives_every_document_once_in_the_order_of_ids(database: Database) -> None:
    things = await database.collection(THINGS)
    assert await things.walk() == []
    stored = await kept(things, *(thing() | {"_id": name} for name in ("b", "😀", "a", "é", "B")))
    whole = sorted(stored, key=lambda document: str(document["_id"]))
    assert await things.walk() == whole
    assert await things.walk(limit=2) == whole[:2]
    assert await things.walk(after="b", limit=2) == whole[3:]
    for limit in (0, 10_001):
        with pytest.raises(InvalidQuery):
            await things.walk(limit=limit)
    with pytest.raises(InvalidQuery):
        await things.walk(after="\ud800")


async def test_a_document_can_be_put_with_its_version(database: Database) -> None:
    things = await database.collection(THINGS)
    document = thing(version=7)
    assert await things.put(document) == document
    assert await things.get(document["_id"]) == document
    with pytest.raises(DuplicateKey):
        await things.put(document)
    with pytest.raises(InvalidDocument, match="version"):
        await things.put(thing())
    assert (await things.replace(document))["version"] == 8


async def test_names_of_fields_may_have_any_character(things: Collection) -> None:
    names: Document = dict.fromkeys(("$set", "$", "a.b", ".", "%24", "%", "nul\0", "", "%write", "é😀"), 1)
    reference = {"$ref": "things", "$id": 1, "$db": "x"}
    strange: Document = {**names, "labels": {**names, "env": [{**names}]}, "reference": reference}
    stored = await things.insert({**thing(), **strange})
    assert await things.get(stored["_id"]) == stored
    changed = await things.replace({**stored, "$set": {"rank": 99}})
    assert await things.find(BY_OWNER) == [changed]
    assert changed["rank"] == 0


async def test_numbers_keep_their_kind(things: Collection) -> None:
    numbers = [0, 1, -1, 2**31, 2**40, -(2**63), 2**63 - 1, 1.0, 0.1, -0.0, 1e300, True, False]
    stored = await things.insert(thing(numbers=numbers))
    found = await things.get(stored["_id"])
    assert found is not None
    assert [(type(number), repr(number)) for number in found["numbers"]] == [
        (type(number), repr(number)) for number in numbers
    ]


async def test_an_equality_takes_no_pattern_and_no_other_type(things: Collection) -> None:
    await kept(things, thing("alice"), thing("ALICE"), thing("1"))
    for owner in ("ali%", "al_ce", "Alice", "' OR 1=1 --", 1):
        assert await things.find(BY_OWNER, {"owner": owner}) == []


async def test_a_range_has_its_low_end_and_lacks_its_high_end(things: Collection) -> None:
    await kept(things, *(thing(rank=rank) for rank in range(6)))

    async def ranks(**bounds: Any) -> list[int]:
        return [found["rank"] for found in await things.find(BY_RANK, {"owner": "alice"}, **bounds)]

    assert await ranks(low=2) == [2, 3, 4, 5]
    assert await ranks(high=2) == [0, 1]
    assert await ranks(low=2, high=4) == [2, 3]
    assert await ranks(low=4, high=2) == []


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_pages_put_together_are_the_whole(things: Collection, descending: bool, limit: int) -> None:
    await kept(things, *(thing(rank=number % 3) for number in range(11)), thing("bob"), thing("aaron"))
    whole = await things.find(BY_RANK, {"owner": "alice"}, descending=descending)
    pages: list[Document] = []
    last: Document | None = None
    while page := await things.find(BY_RANK, {"owner": "alice"}, descending=descending, after=last, limit=limit):
        assert len(page) <= limit
        pages += page
        last = page[-1]
    assert pages == whole
    assert len(whole) == 11


async def test_a_page_goes_on_where_a_deleted_document_was(things: Collection) -> None:
    stored = await kept(things, *(thing(rank=rank) for rank in range(4)))
    await things.delete(stored[1]["_id"])
    position = {"rank": 1, "_id": stored[1]["_id"]}
    assert await things.find(BY_RANK, {"owner": "alice"}, after=position) == stored[2:]


async def test_a_page_stays_within_its_range(things: Collection) -> None:
    stored = await kept(things, *(thing(rank=rank) for rank in range(6)))
    assert await things.find(BY_RANK, {"owner": "alice"}, after=stored[1], low=1, high=4) == stored[2:4]


async def test_counting_agrees_with_finding(things: Collection) -> None:
    await kept(things, *(thing(rank=number % 2) for number in range(5)), thing("bob"))
    assert await things.count(BY_OWNER) == 6
    assert await things.count(BY_OWNER, {"owner": "alice"}) == 5
    assert await things.count(BY_RANK, {"owner": "alice", "rank": 1}) == 2
    assert await things.count(BY_RANK, {"owner": "nobody"}) == 0


async def test_purging_removes_the_lowest_first_and_only_those_below(things: Collection) -> None:
    await kept(things, *(thing(rank=rank) for rank in range(6)), thing("bob", 0))
    assert await things.purge(BY_RANK, {"owner": "alice"}, below=4, limit=3) == 3
    assert [found["rank"] for found in await things.find(BY_RANK, {"owner": "alice"})] == [3, 4, 5]
    assert await things.purge(BY_RANK, {"owner": "alice"}, below=4, limit=3) == 1
    assert await things.purge(BY_RANK, {"owner": "alice"}, below=4) == 0
    assert await things.count(BY_OWNER) == 3


@pytest.mark.parametrize(
    ("equal", "more"),
    [
        ({"rank": 1}, {}),
        ({"owner": "a", "other": 1}, {}),
        ({"owner": "a", "rank": 1, "_id": "x"}, {"low": 1}),
        ({"owner": None}, {}),
        ({"owner": True}, {}),
        ({"owner": 1.5}, {}),
        ({"owner": ["a"]}, {}),
        ({"owner": {"$ne": ""}}, {}),
        ({"owner": "\ud800"}, {}),
        ({"owner": 2**63}, {}),
        ({"owner": "a"}, {"limit": 0}),
        ({"owner": "a"}, {"limit": 10_001}),
        ({"owner": "a"}, {"after": {"rank": 1}}),
        ({"owner": "a"}, {"after": {"rank": None, "_id": "x"}}),
        ({"owner": "a"}, {"low": 1.5}),
    ],
)
async def test_a_query_that_does_not_fit_the_index_is_refused(things: Collection, equal: Any, more: Any) -> None:
    with pytest.raises(InvalidQuery):
        await things.find(BY_RANK, equal, **more)


async def test_an_index_that_is_not_declared_is_refused(things: Collection) -> None:
    for index in (Index(name="by_color", fields=("color",)), Index(name="by_rank", fields=("rank",))):
        with pytest.raises(InvalidQuery, match=index.name):
            await things.find(index)
        with pytest.raises(InvalidQuery):
            await things.count(index)
        with pytest.raises(InvalidQuery):
            await things.purge(index, below=1)


@pytest.mark.parametrize(
    "change",
    [
        {"_id": ""},
        {"_id": 7},
        {"_id": None},
        {"_id": "\0"},
        {"owner": None},
        {"owner": True},
        {"owner": 1.5},
        {"owner": "\0"},
        {"owner": ["a"]},
        {"rank": 2**63},
        {"email": None},
        {"more": float("nan")},
        {"more": float("inf")},
        {"more": {1: "x"}},
        {"more": {"x": b"bytes"}},
        {"more": ("a", "tuple")},
        {"more": 2**64},
        {"more": "\ud800"},
        {"more": {"\ud800": 1}},
        {"more": "x" * 9_000_000},
    ],
)
async def test_a_document_that_cannot_be_stored_is_refused(things: Collection, change: Document) -> None:
    with pytest.raises(InvalidDocument) as caught:
        await things.insert({**thing(), **change})
    assert len(str(caught.value)) < 400
    (stored,) = await kept(things, thing())
    if "_id" not in change:
        with pytest.raises(InvalidDocument):
            await things.replace({**stored, **change})
    assert await things.find(BY_OWNER) == [stored]


async def test_a_document_without_an_indexed_field_is_refused(things: Collection) -> None:
    with pytest.raises(InvalidDocument, match="rank"):
        await things.insert({"_id": new_id(), "owner": "alice"})


async def test_a_document_nested_too_deep_is_refused(things: Collection) -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidDocument, match="deep"):
        await things.insert(thing(deep=deep))


async def test_no_update_is_lost_among_fifty_writers(things: Collection) -> None:
    (counter,) = await kept(things, thing(by={}))

    async def add(writer: str) -> None:
        for _ in range(10):
            while True:
                seen = await things.get(counter["_id"])
                assert seen is not None
                seen["rank"] += 1
                seen["by"][writer] = seen["by"].get(writer, 0) + 1
                try:
                    await things.replace(seen)
                except VersionConflict:
                    continue
                break

    async with anyio.create_task_group() as tasks:
        for writer in range(50):
            tasks.start_soon(add, str(writer))
    found = await things.get(counter["_id"])
    assert found is not None
    assert (found["rank"], found["version"]) == (500, 501)
    assert found["by"] == {str(writer): 10 for writer in range(50)}


async def test_of_many_who_want_a_unique_value_one_gets_it(things: Collection) -> None:
    refused: list[str] = []

    async def want(number: int) -> None:
        try:
            await things.insert(thing(rank=number, email="a@example.org"))
        except DuplicateKey as error:
            refused.append(error.index)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(want, number)
    assert refused == ["by_email"] * 49
    assert await things.count(BY_OWNER) == 1


async def test_a_write_that_fails_leaves_its_neighbours_alone(things: Collection) -> None:
    (taken,) = await kept(things, thing())
    failed: list[Exception] = []

    async def insert(number: int) -> None:
        try:
            await things.insert({**thing(rank=number), **({"_id": taken["_id"]} if number % 3 == 0 else {})})
        except DuplicateKey as error:
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(90):
            tasks.start_soon(insert, number)
    assert len(failed) == 30
    assert await things.count(BY_OWNER) == 61


async def test_what_is_acknowledged_is_seen_by_the_next_read(things: Collection) -> None:
    for number in range(100):
        stored = await things.insert(thing(rank=number))
        assert await things.get(stored["_id"]) == stored
        assert await things.count(BY_OWNER) == number + 1


async def test_a_cancelled_caller_knows_what_was_written(things: Collection) -> None:
    stored = 0
    for number in range(30):
        with anyio.move_on_after(number / 20_000):
            while True:
                await things.insert(thing(rank=number))
                stored += 1
                await things.find(BY_OWNER, limit=1)
    assert await things.count(BY_OWNER) == stored


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


async def test_writes_under_way_are_done_before_it_closes(database: Database, things: Collection) -> None:
    outcomes: list[bool] = []

    async def insert() -> None:
        try:
            await things.insert(thing())
        except StoreUnavailable:
            outcomes.append(False)
        else:
            outcomes.append(True)

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(insert)
        await anyio.sleep(0.005)
        await database.aclose()
    await database.open()
    assert len(outcomes) == 200
    assert await (await database.collection(things.spec)).count(BY_OWNER) == outcomes.count(True)
