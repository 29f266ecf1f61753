"""What every adapter promises to many who write at once, and to those who are cancelled or closed meanwhile."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from storage.backoff import Backoff
from storage.collection import Collection, Database
from storage.errors import (
    DuplicateKey,
    StoreUnavailable,
    VersionConflict,
)
from tests.storage.things import BY_OWNER, kept, thing

pytestmark = pytest.mark.anyio


async def test_no_update_is_lost_among_fifty_writers(things: Collection) -> None:
    (counter,) = await kept(things, thing(by={}))

    async def add(writer: str) -> None:
        for _ in range(10):
            backoff = Backoff()
            while True:
                seen = await things.get(counter["_id"])
                assert seen is not None
                seen["rank"] += 1
                seen["by"][writer] = seen["by"].get(writer, 0) + 1
                try:
                    await things.replace(seen)
                except VersionConflict:
                    await backoff.wait()
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
        while not outcomes:
            await anyio.lowlevel.checkpoint()
        await database.aclose()
    await database.open()
    assert len(outcomes) == 200
    assert await (await database.collection(things.spec)).count(BY_OWNER) == outcomes.count(True)
