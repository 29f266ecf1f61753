"""A server killed at every step of what it does: the next one finds nothing half done, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.fleet import OWNER
from tests.crash.operations import FORKS, NEW, SPEC
from tests.crash.rig import Rig, changed_since, has_its_files, is_whole, works
from tests.crash.server import Fate
from vmm.fleet import Fleet
from vmm.sandboxes.sandbox import State

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


async def test_a_sandbox_that_was_being_made_is_there_or_not(rig: Rig) -> None:
    assert await rig.kill_at_each_step("create", _made) > 5


async def test_a_sandbox_that_was_being_made_from_a_snapshot_is_there_or_not(rig: Rig) -> None:
    assert await rig.kill_at_each_step("create_from", _made, mapped=True, snapshot=rig.kept) > 5


async def _made(fleet: Fleet, fate: Fate) -> None:
    made = [sandbox for sandbox in (await fleet.sandboxes.list(OWNER)).items if sandbox.name == NEW]
    assert len(made) == 1 if fate.survived else len(made) <= 1
    for sandbox in made:
        await works(fleet, sandbox)
        await fleet.sandboxes.delete(OWNER, sandbox.id)


@pytest.mark.parametrize("state", [State.RUNNING, State.ASLEEP])
async def test_a_sandbox_that_was_being_deleted_is_gone_or_whole(rig: Rig, state: State) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        left = (await fleet.sandboxes.list(OWNER)).items
        assert not (left and fate.survived)
        for sandbox in left:
            assert sandbox.state is state
            await is_whole(fleet, sandbox)

    subject = rig.box if state is State.RUNNING else rig.sleeper
    assert await rig.kill_at_each_step("delete", look, sandbox=subject) > 3


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "own"])
async def test_a_snapshot_that_was_being_taken_is_there_as_a_whole_or_not(rig: Rig, mapped: bool) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        assert box.state is State.RUNNING
        await is_whole(fleet, box)
        snapshots = await fleet.snapshots.list(OWNER)
        assert len(snapshots) == 1 if fate.survived else len(snapshots) <= 1
        for snapshot in snapshots:
            child = await fleet.sandboxes.create(OWNER, replace(SPEC, name="child", snapshot=snapshot.id))
            await is_whole(fleet, child)
            await fleet.sandboxes.delete(OWNER, child.id)
            await fleet.snapshots.delete(OWNER, snapshot.id)

    assert await rig.kill_at_each_step("snapshot", look, mapped=mapped, sandbox=rig.box) > 5


async def test_a_snapshot_that_was_being_deleted_is_gone_or_whole(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        snapshots = await fleet.snapshots.list(OWNER)
        assert not (snapshots and fate.survived)
        for snapshot in snapshots:
            child = await fleet.sandboxes.create(OWNER, replace(SPEC, name="child", snapshot=snapshot.id))
            await is_whole(fleet, child)
            await fleet.sandboxes.delete(OWNER, child.id)

    assert await rig.kill_at_each_step("delete_snapshot", look, snapshot=rig.kept) > 1


async def test_a_sandbox_that_was_being_put_back_is_as_before_or_as_then(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        assert box.state is State.RUNNING
        await is_whole(fleet, box)
        assert not (await changed_since(fleet, box) and fate.survived)

    assert await rig.kill_at_each_step("restore", look, sandbox=rig.box, snapshot=rig.kept) > 8


async def test_forks_that_were_being_made_are_there_or_not_and_their_parent_is(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        *children, box = (await fleet.sandboxes.list(OWNER)).items
        assert box.state is State.RUNNING
        await is_whole(fleet, box)
        assert len(children) == FORKS if fate.survived else len(children) <= FORKS
        for child in children:
            await is_whole(fleet, child)
            await fleet.sandboxes.delete(OWNER, child.id)

    assert await rig.kill_at_each_step("fork", look, sandbox=rig.box) > 15


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "own"])
async def test_a_sandbox_that_was_falling_asleep_sleeps_or_runs_on(rig: Rig, mapped: bool) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        assert box.state is State.ASLEEP if fate.survived else box.state in {State.ASLEEP, State.RUNNING}
        await is_whole(fleet, box)

    subject = rig.fresh_box if mapped else rig.box
    assert await rig.kill_at_each_step("sleep", look, mapped=mapped, sandbox=subject) > 5


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "own"])
async def test_a_sandbox_that_was_waking_sleeps_or_runs(rig: Rig, mapped: bool) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        assert box.state is State.RUNNING if fate.survived else box.state in {State.ASLEEP, State.RUNNING}
        await is_whole(fleet, box)

    subject = rig.fresh_sleeper if mapped else rig.sleeper
    assert await rig.kill_at_each_step("wake", look, mapped=mapped, sandbox=subject) > 5


async def test_a_sandbox_that_was_being_restarted_runs_or_is_known_to_be_killed(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        assert box.state is State.RUNNING if fate.survived else box.state in {State.RUNNING, State.KILLED}
        assert (box.state is State.RUNNING) == ("restart had begun" not in box.reason)
        if box.state is State.KILLED and len(fate.steps) % 4 == 1:  # a boot takes seconds
            box = await fleet.lifecycle.restart(OWNER, box.id)
        if box.state is State.RUNNING:
            await has_its_files(fleet, box)
        await fleet.sandboxes.delete(OWNER, box.id)

    assert await rig.kill_at_each_step("restart", look, sandbox=rig.box) > 8
