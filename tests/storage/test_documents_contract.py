"""What every adapter promises of documents: stored, replaced and deleted as they are, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from storage.collection import Collection, Database, Document
from storage.errors import (
    DocumentMissing,
    DuplicateKey,
    InvalidDocument,
    VersionConflict,
)
from storage.ids import new_id
from tests.storage.things import BY_EMAIL, BY_OWNER, THINGS, kept, thing

pytestmark = pytest.mark.anyio


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
