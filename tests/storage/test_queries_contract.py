"""What every adapter promises of queries: order, ranges, pages, counts, and what is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.errors import (
    InvalidQuery,
)
from storage.ids import new_id
from storage.sqlite_collection import SqliteCollection
from tests.storage.things import BY_OWNER, BY_RANK, THINGS, kept, thing

pytestmark = pytest.mark.anyio


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
