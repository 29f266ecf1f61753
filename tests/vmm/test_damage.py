"""Damage to what a sandbox or snapshot left on the disk or in the store: it says so, and no other is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from storage.ids import new_id
from tests.vmm import still
from vmm.errors import Conflict, Damaged, LimitExceeded, NotFound
from vmm.hypervisor.detect import Choice
from vmm.sandboxes.limits import OwnerLimits
from vmm.sandboxes.sandbox import Sandbox, State

pytestmark = pytest.mark.anyio

ALICE, BOB = "a" * 24, "b" * 24


async def sleeper(there: still.Still, owner: str = ALICE, *, fingerprint: str = "") -> Sandbox:
    """A sandbox that sleeps, whole as far as anybody can see who does not wake it."""
    sandbox = await still.kept(there.collection, State.ASLEEP, owner)
    still.asleep(there.instances / sandbox.machine, fingerprint=fingerprint or there.driver.fingerprint)
    return sandbox


@pytest.mark.parametrize("state", [State.RUNNING, State.ASLEEP])
async def test_a_machine_with_a_damaged_record_is_left_alone_until_it_is_repaired(
    tmp_path: Path, choice: Choice, state: State
) -> None:
    data, fingerprint = tmp_path / "data", choice.driver.fingerprint
    async with still.stored(data) as collection:
        damaged, ended = [await still.kept(collection, one) for one in (state, State.RUNNING)]
        whole = await still.kept(collection, State.ASLEEP)
    directory = data / "instances" / damaged.machine
    still.furnished(data / "instances" / ended.machine, fingerprint=fingerprint)
    still.asleep(data / "instances" / whole.machine, fingerprint=fingerprint)
    with still.process_in(directory) as process:
        still.furnished(directory, fingerprint=fingerprint, process=process)
        still.change(directory / "machine.json", port=None)
        for _ in range(2):  # every start anew
            async with still.opened(data, choice.driver) as there:
                found = {one.id: one for one in (await there.fleet.sandboxes.list(ALICE)).items}
                assert [found[one.id].state for one in (ended, whole)] == [State.KILLED, State.ASLEEP]
                assert found[damaged.id].state is State.ERROR
                assert f"{damaged.machine}/machine.json is damaged: it has no port" in found[damaged.id].reason
                with pytest.raises(Conflict, match=r"in state error: .*has no port. Start it again"):
                    await there.fleet.lifecycle.wake(ALICE, damaged.id)
                assert process.alive()
                assert (directory / "disk").exists()
        still.change(directory / "machine.json", port=1)
        async with still.opened(data, choice.driver) as there:
            found = await there.fleet.sandboxes.get(ALICE, damaged.id)
            assert (found.state, found.reason) == (State.RUNNING, "")
            assert process.alive()
            await there.fleet.sandboxes.delete(ALICE, damaged.id)
            assert not process.alive()


async def test_a_sleeping_sandbox_with_a_damaged_record_reports_it_and_stays_asleep(
    tmp_path: Path, choice: Choice
) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        damaged, other = await sleeper(there), await sleeper(there)
        (there.instances / damaged.machine / "machine.json").write_text('{"pid": 1')
        for call in (there.fleet.lifecycle.wake, there.fleet.snapshots.take):
            with pytest.raises(Damaged, match=f"{damaged.machine}/machine.json is damaged: it is not JSON"):
                await call(ALICE, damaged.id)
        assert (await there.fleet.sandboxes.get(ALICE, damaged.id)).state is State.ASLEEP
        assert (await there.fleet.snapshots.take(ALICE, other.id)).sandbox == other.id
        await there.fleet.sandboxes.delete(ALICE, damaged.id)
        assert [path.name for path in there.instances.iterdir()] == [other.machine]


@pytest.mark.parametrize("machine", [True, False], ids=["machine known", "machine unknown"])
async def test_a_damaged_record_in_the_store_hides_no_other_and_loses_nothing(
    tmp_path: Path, choice: Choice, machine: bool
) -> None:
    data = tmp_path / "data"
    async with still.stored(data) as collection:
        damaged, other = [await still.kept(collection, State.ASLEEP) for _ in range(2)]
        document = await collection.get(damaged.id)
        assert document is not None
        spoilt = {name: value for name, value in document.items() if machine or name != "machine"}
        await collection.replace({**spoilt, "state": "dreaming"})
    for sandbox in (damaged, other):
        still.asleep(data / "instances" / sandbox.machine, fingerprint=choice.driver.fingerprint)
    nobodys = data / "instances" / new_id()
    nobodys.mkdir()
    with still.process_in(data / "instances" / damaged.machine) as process:
        async with still.opened(data, choice.driver) as there:
            assert [one.id for one in (await there.fleet.sandboxes.list(ALICE)).items] == [other.id]
            with pytest.raises(Damaged, match=f"record of sandbox {damaged.id} is damaged"):
                await there.fleet.sandboxes.get(ALICE, damaged.id)
            with pytest.raises(NotFound):
                await there.fleet.sandboxes.get(BOB, damaged.id)
            assert process.alive()
            assert (there.instances / damaged.machine / "disk").exists()
            # What belongs to nobody is removed only if it is known to.
            assert nobodys.exists() is not machine


async def test_fields_of_a_later_release_are_ignored(tmp_path: Path, choice: Choice) -> None:
    async with still.stored(tmp_path / "data") as collection:
        sandbox = await still.kept(collection, State.ASLEEP)
        document = await collection.get(sandbox.id)
        assert document is not None
        later = {name: value for name, value in document.items() if name not in {"base", "memory", "left_ms"}}
        await collection.replace({**later, "mood": "good"})
    async with still.opened(tmp_path / "data", choice.driver) as there:
        assert (await there.fleet.sandboxes.get(ALICE, sandbox.id)).name == "box"


async def test_an_unreadable_snapshot_does_not_affect_others(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        mine, theirs = await sleeper(there, ALICE), await sleeper(there, BOB)
        kept = await there.fleet.snapshots.take(BOB, theirs.id, name="kept")
        nobodys, spoilt = [
            await there.fleet.snapshots.take(ALICE, mine.id, name=name) for name in ("nobodys", "spoilt")
        ]
        manifests = {one.id: there.data / "snapshots" / one.id / "snapshot.json" for one in (nobodys, spoilt)}
        still.change(manifests[nobodys.id], owner=None)
        still.change(manifests[spoilt.id], image=None)
        assert await there.fleet.snapshots.list(BOB) == (kept,)
        assert await there.fleet.snapshots.get(BOB, "kept") == kept
        await there.fleet.snapshots.take(BOB, theirs.id)
        (shown,) = await there.fleet.snapshots.list(ALICE)
        assert (shown.id, shown.name) == (spoilt.id, "spoilt")
        assert "it has no image" in shown.damage
        for call in (
            lambda: there.fleet.snapshots.restore(ALICE, mine.id, "spoilt"),
            lambda: there.fleet.snapshots.rename(ALICE, "spoilt", "other"),
        ):
            with pytest.raises(Damaged, match="it has no image"):
                await call()
        await there.fleet.snapshots.delete(ALICE, "spoilt")
        assert manifests[nobodys.id].exists()
        still.change(manifests[nobodys.id], owner=ALICE)
        assert [one.id for one in await there.fleet.snapshots.list(ALICE)] == [nobodys.id]


async def test_a_snapshot_of_a_sleeping_sandbox_records_the_hypervisor_that_suspended_it(
    tmp_path: Path, choice: Choice
) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        old = await sleeper(there, fingerprint="qemu 6.0 tcg max")
        snapshot = await there.fleet.snapshots.take(ALICE, old.id)
        assert snapshot.driver == "qemu 6.0 tcg max"
        manifest = there.data / "snapshots" / snapshot.id / "saved.json"
        assert json.loads(manifest.read_text())["fingerprint"] == snapshot.driver
        with pytest.raises(Conflict, match=r"was saved by qemu 6\.0 tcg max and loads only there"):
            await there.fleet.snapshots.restore(ALICE, old.id, snapshot.id)


async def test_concurrent_snapshots_do_not_exceed_the_owners_limit(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, limits=OwnerLimits(snapshots=3)) as there:
        sleepers = [await sleeper(there) for _ in range(8)]
        refused: list[str] = []

        async def take(sandbox: Sandbox) -> None:
            try:
                await there.fleet.snapshots.take(ALICE, sandbox.id)
            except LimitExceeded as error:
                refused.append(error.message)

        async with anyio.create_task_group() as tasks:
            for sandbox in sleepers:
                tasks.start_soon(take, sandbox)
        taken = await there.fleet.snapshots.list(ALICE)
        assert sorted(one.name for one in taken) == ["box-1", "box-2", "box-3"]
        assert refused == ["snapshots must be at most 3, got 3 existing and 1 more"] * 5
        await there.fleet.snapshots.delete(ALICE, taken[0].id)
        await there.fleet.snapshots.take(ALICE, sleepers[0].id)


async def test_a_failed_snapshot_does_not_count_against_the_limit(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, limits=OwnerLimits(snapshots=1)) as there:
        broken, whole = await sleeper(there), await sleeper(there)
        (there.instances / broken.machine / "machine.json").write_text("")
        with pytest.raises(Damaged):
            await there.fleet.snapshots.take(ALICE, broken.id)
        await there.fleet.snapshots.take(ALICE, whole.id)
        assert os.listdir(there.data / "snapshots") == [(await there.fleet.snapshots.list(ALICE))[0].id]  # noqa: PTH208
