"""What a fleet does unasked goes on, whatever happens to one sandbox."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from storage.ids import new_id
from tests.vmm import still
from tests.vmm.images.tiny_recipes import tiny_catalogue
from vmm.errors import Conflict, HostExhausted, NotFound, Unavailable
from vmm.hypervisor.base import Memory, Running
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.process import ProcessRef
from vmm.lifecycle.admission import Admission
from vmm.machines import registry as machines_module
from vmm.machines.machine import Machine, MachineRecord
from vmm.machines.registry import MachineRegistry
from vmm.machines.warm_pool import Key
from vmm.sandboxes.host_memory import read_memory
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import Quotas
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.store import SandboxStore

pytestmark = pytest.mark.anyio

ALICE = "a" * 24
FREEZER = Path("/sys/fs/cgroup/freezer")


@contextmanager
def irremovable(directory: Path) -> Generator[None]:
    """Let a directory not be removed."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        with still.mounted(directory / "busy", "size=1m"):
            yield
        return
    (directory / "file").touch()
    directory.chmod(0o500)
    try:
        yield
    finally:
        directory.chmod(0o700)


@contextmanager
def frozen(process: ProcessRef) -> Generator[None]:
    """Let a process not be killed: a frozen one of cgroup v1 heeds nothing."""
    group = FREEZER / new_id()
    group.mkdir()
    (group / "cgroup.procs").write_text(str(process.pid))
    (group / "freezer.state").write_text("FROZEN")
    try:
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        while members := (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                (FREEZER / "cgroup.procs").write_text(members[0])
        group.rmdir()


async def test_a_directory_that_cannot_be_removed_blocks_neither_the_start_nor_other_removals(
    tmp_path: Path, choice: Choice
) -> None:
    data = tmp_path / "data"
    async with still.stored(data) as collection:
        stuck, other = [await still.kept(collection, State.DELETED) for _ in range(2)]
    strange, remains = data / "instances" / new_id(), data / "snapshots" / ".draft-1"
    (data / "instances" / other.machine).mkdir(parents=True)
    with irremovable(data / "instances" / stuck.machine), irremovable(strange), irremovable(remains):
        async with still.opened(data, choice.driver) as there:
            assert {path.name for path in there.instances.iterdir()} == {stuck.machine, strange.name}
            assert [one.id for one in await there.store.in_state(State.DELETED)] == [stuck.id]
    async with still.opened(data, choice.driver) as there:
        assert list(there.instances.iterdir()) == []
        assert await there.store.in_state(State.DELETED) == []


async def test_a_sweep_finishes_what_it_can_and_logs_the_rest_once(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, sweep_s=0.02) as there:
        # The newest are looked at first.
        behind, stuck = [await still.kept(there.collection, State.ASLEEP) for _ in range(2)]
        (there.instances / behind.machine).mkdir()
        with irremovable(there.instances / stuck.machine), capture_logs() as logs:
            for sandbox in (stuck, behind):
                await there.store.change(sandbox.id, lambda found: found.moved(State.DELETED, now_ms=2))
            with anyio.fail_after(20):
                while await there.store.find(behind.id) is not None:
                    await anyio.sleep(0.01)
            assert not (there.instances / behind.machine).exists()
            await anyio.sleep(0.2)  # ten more sweeps
        told = [line for line in logs if line.get("sandbox") == stuck.id and line["log_level"] == "warning"]
        assert len(told) == 1, told
        with anyio.fail_after(20):
            while await there.store.find(stuck.id) is not None:
                await anyio.sleep(0.01)


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="needs the freezer of cgroup v1")
async def test_a_hypervisor_that_does_not_end_blocks_only_its_own_deletion(
    tmp_path: Path, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines_module, "_ORPHAN_DEADLINE_S", 0.2)
    data = tmp_path / "data"
    async with still.stored(data) as collection:
        behind, stuck = [await still.kept(collection, State.DELETED) for _ in range(2)]
        running = await still.kept(collection, State.KILLED)
    (data / "instances" / behind.machine).mkdir(parents=True)
    with still.process_in(data / "instances" / stuck.machine) as process:
        with frozen(process):
            async with still.opened(data, choice.driver) as there:
                assert await there.store.in_state(State.DELETED) == [stuck]
                assert (await there.fleet.sandboxes.get(ALICE, running.id)).state is State.KILLED
                assert process.alive()
        async with still.opened(data, choice.driver) as there:
            assert list(there.instances.iterdir()) == []
            assert not process.alive()


async def test_a_damaged_image_blocks_no_other_part_of_a_sweep(tmp_path: Path, choice: Choice) -> None:
    images = tiny_catalogue(tmp_path / "images", tmp_path / "log")
    image = await images.build("minimal")
    async with still.opened(tmp_path / "data", choice.driver, catalogue=images, sweep_s=0.02) as there:
        there.inner("_housekeeping").keep_ready(Key(images=image, cpu=1, mem=256))
        image.base.chmod(0o644)
        image.base.write_text("something else")
        with pytest.raises(Unavailable, match="is damaged"):
            await images.find("minimal")
        sandbox = await still.kept(there.collection, State.DELETED)
        (there.instances / sandbox.machine).mkdir()
        with anyio.fail_after(20):
            while await there.store.find(sandbox.id) is not None:
                await anyio.sleep(0.01)
        assert list(there.instances.iterdir()) == []


async def test_a_delete_with_files_that_cannot_be_removed_succeeds_for_its_owner(
    tmp_path: Path, choice: Choice
) -> None:
    async with still.opened(tmp_path / "data", choice.driver, sweep_s=0.02) as there:
        sandbox = await still.kept(there.collection, State.ASLEEP)
        with irremovable(there.instances / sandbox.machine):
            await there.fleet.sandboxes.delete(ALICE, sandbox.id)
            with pytest.raises(NotFound):
                await there.fleet.sandboxes.get(ALICE, sandbox.id)
        with anyio.fail_after(20):
            while list(there.instances.iterdir()):
                await anyio.sleep(0.01)


async def test_a_machine_is_watched_even_if_the_server_has_too_many_open_files(tmp_path: Path, choice: Choice) -> None:
    deaths: list[tuple[str, str]] = []

    async def on_death(sandbox_id: str, machine: str, reason: str) -> None:
        deaths.append((sandbox_id, machine))
        raise RuntimeError(reason)

    directory = tmp_path / new_id()
    with still.process_in(directory) as process:
        still.furnished(directory, fingerprint=choice.driver.fingerprint, process=process)
        record = MachineRecord.read(directory)
        assert record is not None
        running = Running(directory=directory, process=process, port=1, memory=Memory.OWN)
        async with anyio.create_task_group() as tasks:
            machines = MachineRegistry(choice.driver, tmp_path, tasks, on_death)
            with still.no_more_files(), capture_logs() as logs:
                machines.attach("box", Machine.recorded(choice.driver, running, record))
                await still.until(lambda: any(line["event"] == "machine not watched" for line in logs))
            subprocess.run(["kill", "-9", str(process.pid)], check=True)
            await still.until(lambda: deaths)
            assert machines.get("box") is None
    assert deaths == [("box", directory.name)]


@pytest.mark.parametrize(
    "call", ["lifecycle.revive", "lifecycle.wake", "lifecycle.sleep", "snapshots.take", "snapshots.fork"]
)
async def test_a_sandbox_that_is_still_being_created_reports_that(tmp_path: Path, choice: Choice, call: str) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        sandbox = await still.kept(there.collection, State.CREATING)
        with pytest.raises(Conflict, match=r"is still being created. Wait until it is running"):
            await attrgetter(call)(there.fleet)(ALICE, sandbox.id)
        with pytest.raises(Conflict, match="is still being created"):
            async with there.fleet.guest.reach(ALICE, sandbox.id):
                pass
        assert await there.store.find(sandbox.id) == sandbox


async def test_a_sandbox_that_is_still_being_created_cannot_be_restored(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        sandbox = await still.kept(there.collection, State.ASLEEP)
        still.asleep(there.instances / sandbox.machine, fingerprint=there.driver.fingerprint)
        snapshot = await there.fleet.snapshots.take(ALICE, sandbox.id)
        unmade = await still.kept(there.collection, State.CREATING)
        with pytest.raises(Conflict, match="is still being created"):
            await there.fleet.snapshots.restore(ALICE, unmade.id, snapshot.id)
        assert await there.store.find(unmade.id) == unmade


async def test_a_memory_reservation_belongs_to_the_last_machine_that_it_was_made_for(tmp_path: Path) -> None:
    async def nobody_gives_way() -> bool:
        return False

    async with still.stored(tmp_path) as collection:
        sandbox = await still.kept(collection, State.RUNNING)
        admission = Admission(
            [tmp_path],
            SandboxStore(collection, host=still.HOST),
            Quotas(OwnerLimits()),
            HostReserve(memory=1, machine=1, disk=1, overcommit=300 / read_memory().total),
            ahead=lambda: 0,
            give_way=nobody_gives_way,
        )
        old, new = sandbox.machine, new_id()
        admission.running(sandbox)
        await admission.readmit(sandbox, new)
        admission.release(sandbox.id, old)
        with pytest.raises(HostExhausted, match=r"\(256 of (299|300) MiB are promised"):
            admission.check_ahead(sandbox.mem)
        admission.release(sandbox.id, new)
        admission.check_ahead(sandbox.mem)
        await admission.readmit(sandbox, new)
        admission.release(sandbox.id)
        admission.check_ahead(sandbox.mem)
