"""A server killed at every step of what it does with volumes: no volume is lost, half made, or in two machines."""

from __future__ import annotations

import pytest

from bench.fleet import OWNER
from tests.crash.operations import FORKS, NEW, PLACE
from tests.crash.rig import Rig, has_its_volume, is_whole
from tests.crash.server import Fate
from vmm.fleet import Fleet
from vmm.sandboxes.sandbox import State

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


async def test_a_volume_that_was_being_made_is_there_or_not(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        made = await fleet.volumes.list(OWNER)
        assert len(made) == 1 if fate.survived else len(made) <= 1
        for volume in made:
            await fleet.volumes.delete(OWNER, volume.id)

    assert await rig.kill_at_each_step("create_volume", look) > 3


async def test_a_volume_that_was_being_deleted_is_gone_or_whole(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        left = await fleet.volumes.list(OWNER)
        assert not (left and fate.survived)
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        for volume in left:
            await fleet.volumes.attach(OWNER, box.id, volume.id, PLACE)
            await has_its_volume(fleet, box)

    assert await rig.kill_at_each_step("delete_volume", look, volume=rig.free_volume) > 2


async def test_a_volume_that_was_being_copied_is_whole_and_so_is_its_copy(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        await has_its_volume(fleet, box)
        copies = [volume for volume in await fleet.volumes.list(OWNER) if volume.name == NEW]
        assert len(copies) == 1 if fate.survived else len(copies) <= 1
        for copy in copies:
            await fleet.volumes.delete(OWNER, copy.id)
        # Nothing holds back what is written.
        await fleet.volumes.detach(OWNER, box.id, "data")

    assert await rig.kill_at_each_step("copy_volume", look, sandbox=rig.box_with_volume) > 3


async def test_a_volume_that_was_being_attached_is_attached_or_not(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        has = await fleet.volumes.list(OWNER, sandbox=box.id)
        assert has or not fate.survived
        if has:
            await has_its_volume(fleet, box)
        await is_whole(fleet, box)

    assert await rig.kill_at_each_step("attach_volume", look, volume=rig.free_volume) > 3


async def test_a_volume_that_was_being_detached_is_attached_or_free(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        has = await fleet.volumes.list(OWNER, sandbox=box.id)
        assert not (has and fate.survived)
        if not has:
            await fleet.volumes.attach(OWNER, box.id, "data", PLACE)
        await has_its_volume(fleet, box)

    assert await rig.kill_at_each_step("detach_volume", look, sandbox=rig.box_with_volume) > 2


@pytest.mark.parametrize("operation", ["sleep", "snapshot", "restart"])
async def test_a_sandbox_with_a_volume_keeps_it(rig: Rig, operation: str) -> None:
    async def look(fleet: Fleet, _fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        if box.state is State.KILLED:
            box = await fleet.lifecycle.restart(OWNER, box.id)
        await has_its_volume(fleet, box)
        for snapshot in await fleet.snapshots.list(OWNER):
            await fleet.snapshots.delete(OWNER, snapshot.id)

    assert await rig.kill_at_each_step(operation, look, sandbox=rig.box_with_volume) > 5


async def test_forks_that_were_being_made_have_copies_and_leave_none(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        *children, box = (await fleet.sandboxes.list(OWNER)).items
        await has_its_volume(fleet, box)
        assert len(children) == FORKS if fate.survived else len(children) <= FORKS
        for child in children:
            await has_its_volume(fleet, child)
            await fleet.sandboxes.delete(OWNER, child.id)
        copies = [volume for volume in await fleet.volumes.list(OWNER) if volume.source]
        assert len(copies) == len(children)
        for volume in copies:
            await fleet.volumes.delete(OWNER, volume.id)

    assert await rig.kill_at_each_step("fork", look, sandbox=rig.box_with_volume) > 15
