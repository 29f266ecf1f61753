"""Sessions as sandboxes: created once, found again, asleep and lapsed, and never parted from what they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from mcp_server.sandbox_api.names import sandbox_name, volume_name
from mcp_server.sandbox_api.rules import Home, Rules
from mcp_server.sandbox_api.sessions import Sessions
from tests.mcp_server.host import ALICE, OneHost, Prepared, one_host
from tests.waiting import PATIENCE_S
from vmm.errors import CasemateError, InvalidInput, SandboxLost, Unavailable
from vmm.fleet import Fleet
from vmm.sandboxes.sandbox import State

pytestmark = pytest.mark.anyio

RULES = Rules(image="code", mem=1024, pids=0, unused_s=900, max_s=0)


class Clock:
    """A clock that stands still until it is set, in milliseconds."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fleet(prepared: Prepared, tmp_path: Path, clock: Clock) -> AsyncGenerator[OneHost]:
    async with one_host(prepared, tmp_path, clock=clock) as fleet:
        yield fleet


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(workspace=str(tmp_path / "workspace"), user="")


@pytest.fixture
def sessions(fleet: OneHost, home: Home) -> Sessions:
    return Sessions(fleet, RULES, home)


async def made(fleet: Fleet) -> list[str]:
    """The names of alice's sandboxes, but for `box`."""
    return [one.name for one in (await fleet.sandboxes.list(ALICE)).items if one.name != "box"]


async def test_many_first_uses_at_once_create_one_sandbox(fleet: OneHost, sessions: Sessions) -> None:
    found: list[str] = []

    async def use() -> None:
        async with sessions.use(ALICE, "s") as sandbox:
            found.append(sandbox.id)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(use)
    assert (len(found), len(set(found))) == (8, 1)
    assert await made(fleet) == [sandbox_name("s")]


async def test_a_caller_that_gives_up_leaves_the_others_their_session(fleet: OneHost, sessions: Sessions) -> None:
    hasty = anyio.CancelScope()

    async def give_up() -> None:
        with hasty:
            await sessions.open(ALICE, "s")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_up)
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(sessions.open, ALICE, "s")
        await anyio.lowlevel.checkpoint()
        hasty.cancel()
    assert await made(fleet) == [sandbox_name("s")]


async def test_another_server_finds_the_session_with_its_files(fleet: OneHost, sessions: Sessions, home: Home) -> None:
    async with sessions.use(ALICE, "s") as before:
        await fleet.guest.write_file(ALICE, before.id, f"{home.workspace}/file", b"kept")
    async with Sessions(fleet, RULES, home).use(ALICE, "s") as after:
        assert after.id == before.id
        assert (await fleet.guest.read_file(ALICE, after.id, f"{home.workspace}/file")).data == b"kept"


async def test_a_session_that_sleeps_is_found_and_woken(fleet: OneHost, sessions: Sessions) -> None:
    opened = await sessions.open(ALICE, "s")
    await fleet.lifecycle.sleep(ALICE, opened.sandbox.id)
    asleep = await sessions.find(ALICE, "s")
    assert asleep is not None
    assert (asleep.id, asleep.state) == (opened.sandbox.id, State.ASLEEP)
    async with sessions.use(ALICE, "s") as sandbox:
        assert sandbox.id == opened.sandbox.id
    found = await fleet.sandboxes.get(ALICE, opened.sandbox.id)
    assert found.state is State.RUNNING


async def test_a_session_whose_workspace_could_not_be_made_is_tried_again(
    fleet: OneHost, sessions: Sessions, home: Home
) -> None:
    place = Path(home.workspace)
    place.write_text("in the way")
    with pytest.raises(Unavailable, match="could not be prepared: mkdir"):
        await sessions.open(ALICE, "s")
    place.unlink()
    await sessions.open(ALICE, "s")
    assert await made(fleet) == [sandbox_name("s")]
    assert place.is_dir()


async def test_a_session_whose_machine_died_says_so_and_is_started_again_by_name(
    fleet: OneHost, sessions: Sessions
) -> None:
    opened = await sessions.open(ALICE, "s")
    await fleet.kill(ALICE, opened.sandbox.id)
    with pytest.raises(SandboxLost):
        async with sessions.use(ALICE, "s"):
            pass
    again = await sessions.open(ALICE, "s")
    assert again.sandbox.id == opened.sandbox.id
    assert "lost" in again.note


async def test_a_session_that_nobody_used_lapses_and_another_begins(
    fleet: OneHost, sessions: Sessions, clock: Clock
) -> None:
    first = (await sessions.open(ALICE, "s")).sandbox
    kept = (await sessions.open(ALICE, "kept")).sandbox
    async with sweeping(sessions):
        clock.ms += 899_000
        async with sessions.use(ALICE, "kept"):
            pass
        clock.ms += 1000
        with anyio.fail_after(PATIENCE_S):
            while await sessions.find(ALICE, "s") is not None:
                await anyio.sleep(0.01)
    still = await sessions.find(ALICE, "kept")
    assert still is not None
    assert still.id == kept.id
    assert (await sessions.open(ALICE, "s")).sandbox.id != first.id
    assert (await fleet.sandboxes.get(ALICE, "box")).name == "box"


async def test_a_session_that_lapses_before_its_call_begins_is_replaced(fleet: OneHost, sessions: Sessions) -> None:
    first = (await sessions.open(ALICE, "s")).sandbox
    reach = fleet.guest.reach

    @asynccontextmanager
    async def late(owner: str, ref: str, *, wake: bool = True) -> AsyncGenerator[object]:
        fleet.guest.reach = reach
        await fleet.sandboxes.delete(owner, ref)
        async with reach(owner, ref, wake=wake) as pair:
            yield pair

    fleet.guest.reach = late  # pyright: ignore[reportAttributeAccessIssue]
    async with sessions.use(ALICE, "s") as sandbox:
        assert sandbox.id != first.id
        assert sandbox.name == first.name


async def test_a_session_is_deleted_once_and_its_name_is_free(fleet: OneHost, sessions: Sessions) -> None:
    first = (await sessions.open(ALICE, "s")).sandbox
    assert await sessions.delete(ALICE, "s")
    assert not await sessions.delete(ALICE, "s")
    assert await made(fleet) == []
    assert (await sessions.open(ALICE, "s")).sandbox.id != first.id


@pytest.mark.parametrize("name", ["", "x" * 257, "a\0b", "\ud800"])
async def test_a_name_that_cannot_be_kept_is_refused_before_anything_is_made(
    fleet: OneHost, sessions: Sessions, name: str
) -> None:
    with pytest.raises(InvalidInput, match="session_id"):
        await sessions.open(ALICE, name)
    assert await made(fleet) == []


async def test_sessions_are_listed_newest_first_and_nothing_else(fleet: OneHost, sessions: Sessions) -> None:
    opened = [(await sessions.open(ALICE, f"s{number}")).sandbox.id for number in range(3)]
    assert [one.id for one in await sessions.list(ALICE)] == opened[::-1]
    assert await sessions.list("b" * 24) == []


async def test_a_session_that_cannot_be_created_leaves_no_volume_but_files_that_were_there(
    fleet: OneHost, home: Home
) -> None:
    # Guests that are processes of the host take no volumes.
    keeping = Sessions(fleet, replace(RULES, volume_mib=64), home)
    old = await fleet.volumes.create(ALICE, volume_name("old"), size=64)
    for name in ("new", "old"):
        with pytest.raises(CasemateError):
            await keeping.open(ALICE, name)
    assert await made(fleet) == []
    assert [one.id for one in await fleet.volumes.list(ALICE)] == [old.id]
    assert await keeping.has_files(ALICE, "old")
    assert not await keeping.has_files(ALICE, "new")
    assert await keeping.delete(ALICE, "old")
    assert await fleet.volumes.list(ALICE) == ()


@asynccontextmanager
async def sweeping(sessions: Sessions) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sessions.run, 0.01)
        yield
        tasks.cancel_scope.cancel()
