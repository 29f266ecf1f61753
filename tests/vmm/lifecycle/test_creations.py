"""Who waits for a creation learns how it ends, or that it goes on without him."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from vmm.errors import Unavailable
from vmm.lifecycle.creations import Creation, Creations
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

pytestmark = pytest.mark.anyio

BOX = Sandbox.new("a" * 24, "b" * 24, SandboxSpec(name="box"), now_ms=1)
LONG_S = 1000.0


async def outcome(creation: Creation, wait_s: float, found: list[object]) -> None:
    try:
        found.append(await creation.outcome(wait_s))
    except Unavailable as error:
        found.append(error)


async def test_the_sandbox_is_given_to_who_waits() -> None:
    found: list[object] = []
    creation = Creation()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outcome, creation, LONG_S, found)
        await anyio.wait_all_tasks_blocked()
        creation.succeed(BOX)
        creation.end()
    assert found == [BOX]


@pytest.mark.parametrize("wait_s", [0, 0.001])
async def test_who_waits_no_longer_leaves_a_failure_to_the_record(wait_s: float) -> None:
    creation = Creation()
    assert await creation.outcome(wait_s) is None
    assert not creation.is_told()


async def test_a_failure_is_told_to_who_waits_after_everything_is_removed() -> None:
    found: list[object] = []
    creation, failure = Creation(), Unavailable("no")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outcome, creation, LONG_S, found)
        await anyio.wait_all_tasks_blocked()
        assert creation.is_told()
        assert creation.fail(failure)
        await anyio.wait_all_tasks_blocked()
        assert found == []
        creation.end()
    assert found == [failure]


async def test_a_failure_that_is_to_be_told_is_told_though_the_time_is_over() -> None:
    found: list[object] = []
    creation = Creation()

    async def wait() -> None:
        await outcome(creation, 0.001, found)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        over = anyio.current_time() + 0.001
        assert creation.is_told()
        while anyio.current_time() <= over:
            await anyio.lowlevel.checkpoint()
        assert found == []
        creation.fail(Unavailable("no"))
        creation.end()
    assert isinstance(found[0], Unavailable)


async def test_a_server_that_stops_is_told() -> None:
    creation = Creation()
    creation.end()
    with pytest.raises(Unavailable, match="the server is stopping"):
        await creation.outcome(LONG_S)


async def test_calls_wait_for_those_that_are_under_way_alone() -> None:
    creations = Creations()
    await creations.wait("other")
    creations.begin("box")
    over: list[bool] = []

    async def wait() -> None:
        await creations.wait("box")
        over.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not over
        creations.end("box")
    await creations.wait("box")
