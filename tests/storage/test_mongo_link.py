"""The deadline of operations on MongoDB, as the driver sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pymongo import AsyncMongoClient

from storage.collection import Document
from storage.errors import StoreUnavailable
from storage.mongo_link import MongoLink

pytestmark = pytest.mark.anyio

Operation = Callable[[Any], Awaitable[str]]
_TURNS = 5


@pytest.fixture
async def link() -> AsyncGenerator[MongoLink]:
    """A link whose operations have a deadline of a moment. Nobody listens at its address, and nothing asks there."""
    made = MongoLink("mongodb://nowhere", "casemate", within_s=0.01)
    made.start(AsyncMongoClient[Document]("mongodb://127.0.0.1:1", connect=False))
    yield made
    await made.aclose()


@pytest.fixture(params=["read", "write"])
def run(request: pytest.FixtureRequest, link: MongoLink) -> Callable[[Operation], Awaitable[str]]:
    return link.read if request.param == "read" else link.write


async def test_an_operation_that_is_late_is_ended_once_and_can_clean_up(
    run: Callable[[Operation], Awaitable[str]],
) -> None:
    cleaned_up = False

    async def stuck(_: object) -> str:
        nonlocal cleaned_up
        try:
            await anyio.sleep_forever()
        finally:
            # As the driver's conditions do, which take their lock again.
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
            cleaned_up = True
        return ""

    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        await run(stuck)
    assert cleaned_up


async def test_a_caller_that_is_cancelled_leaves_when_the_operation_is_done(
    run: Callable[[Operation], Awaitable[str]], link: MongoLink
) -> None:
    done = False

    async def slow(_: object) -> str:
        nonlocal done
        tasks.cancel_scope.cancel()
        for _ in range(_TURNS):
            await anyio.lowlevel.checkpoint()
        done = True
        return ""

    async with anyio.create_task_group() as tasks:
        await run(slow)
    assert done


async def test_a_time_out_of_the_operations_own_passes(run: Callable[[Operation], Awaitable[str]]) -> None:
    async def failing(_: object) -> str:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await run(failing)
