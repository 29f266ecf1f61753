"""The contract of every driver for saving: a save is consistent, and the machine can continue."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.vmm.hypervisor.ladder import cloned, said, saved
from vmm.errors import HostExhausted, Unavailable
from vmm.guest.values import Chunk, Command
from vmm.hypervisor.base import Hypervisor, Memory, Ram, Running
from vmm.hypervisor.ch_api import api
from vmm.hypervisor.confinement import Confinement
from vmm.hypervisor.process import orphans
from vmm.hypervisor.qemu_command import QMP_SOCKET
from vmm.hypervisor.qmp import qmp
from vmm.hypervisor.users import NoUsers
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine, linked

# `kvm` marks the tests that are fast enough for every run in the emulated host; all of them can run there.
pytestmark = [pytest.mark.anyio, pytest.mark.vm]

_COUNTS = (
    "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/new; mv /dev/shm/new /dev/shm/count; echo $i; sleep 0.1; done"
)


async def test_a_save_is_consistent_and_open_streams_continue(any_machine: Machine, tmp_path: Path) -> None:
    counting = await any_machine.link.start(Command(shell=_COUNTS))
    await said(any_machine, "echo before > /dev/shm/when; echo before > /root/when")
    async with any_machine.link.attach(counting.pid) as chunks:
        before = await _counted(chunks, above=0)
        kept = await saved(any_machine, tmp_path / "kept")
        await said(any_machine, "echo after > /dev/shm/when; echo after > /root/when")
        await _counted(chunks, above=int(await said(any_machine, "cat /dev/shm/count")))
    async with cloned(any_machine.driver, kept, tmp_path / "child") as child:
        assert kept.nonce == any_machine.nonce == (await child.link.ping()).nonce
        assert await said(child, "cat /dev/shm/when /root/when") == "before\nbefore"
        assert await said(any_machine, "cat /dev/shm/when /root/when") == "after\nafter"
        # The clone's process continued from the save, too.
        assert counting.pid in [process.pid for process in await child.link.processes()]
        first = int(await said(child, "cat /dev/shm/count"))
        assert first >= before
        while int(await said(child, "cat /dev/shm/count")) <= first:
            await anyio.sleep(0.02)


async def _counted(chunks: AsyncIterator[Chunk], *, above: int) -> int:
    """Read until the count is above a number."""
    async for chunk in chunks:
        count = int(chunk.data.split()[-1])
        if count > above:
            return count
    raise AssertionError("the stream ended")


@pytest.mark.kvm
async def test_a_machine_can_be_saved_again_and_again(machine_cloned: Machine, tmp_path: Path) -> None:
    for number in ("one", "two", "three"):
        await said(machine_cloned, f"echo {number} > /dev/shm/number")
        kept = await saved(machine_cloned, tmp_path / number)
        if number == "three":
            async with cloned(machine_cloned.driver, kept, tmp_path / "child") as child:
                assert await said(child, "cat /dev/shm/number") == "three"


@pytest.mark.kvm
@pytest.mark.kvm
async def test_a_machine_that_was_saved_with_many_connections_can_be_reached_again(
    driver: Hypervisor, machine_cloned: Machine, tmp_path: Path
) -> None:
    pids = Path("/root/pids")

    async def wait() -> None:
        await machine_cloned.link.exec(Command(shell=f"echo $$ >> {pids}; exec sleep 600"), wait_ms=600_000)

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(wait)
        with anyio.fail_after(120):
            while int(await said(machine_cloned, f"touch {pids}; wc -l < {pids}")) < 40:
                await anyio.sleep(0.1)
        kept = await saved(machine_cloned, tmp_path / "kept")
        assert await said(machine_cloned, "echo goes on") == "goes on"
        async with cloned(driver, kept, tmp_path / "again") as machine:
            assert await said(machine, f"wc -l < {pids}") == "40"
        tasks.cancel_scope.cancel()


async def test_a_paused_machine_can_be_saved(driver: Hypervisor, machine_cloned: Machine, tmp_path: Path) -> None:
    await machine_cloned.link.drop_connections()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        await driver.save(machine_cloned.running, tmp_path / name)
    assert "paused" in (await driver.problem(machine_cloned.running)).lower()
    await driver.resume(machine_cloned.running)
    assert await said(machine_cloned, "echo on") == "on"


async def test_resuming_a_running_machine_changes_nothing(driver: Hypervisor, machine_cloned: Machine) -> None:
    await driver.resume(machine_cloned.running)
    assert await said(machine_cloned, "echo on") == "on"


@pytest.mark.kvm
async def test_clones_of_one_save_share_no_later_changes(
    driver: Hypervisor, moment: Checkpoint, machine_restored: Machine, tmp_path: Path
) -> None:
    before = _looks(moment)
    async with (
        cloned(driver, moment, tmp_path / "second") as second,
        cloned(driver, moment, tmp_path / "third", own=True) as third,
    ):
        for machine in (machine_restored, second, third):
            name = machine.directory.name
            await said(machine, f"echo {name} > /dev/shm/word; echo {name} > /root/word; sync")
        for machine in (machine_restored, second, third):
            name = machine.directory.name
            assert await said(machine, "cat /dev/shm/word /root/word; hostname") == f"{name}\n{name}\n{name}"
    assert _looks(moment) == before


def _looks(moment: Checkpoint) -> dict[str, str | int]:
    """Return everything that could change in a save's files."""
    state = [moment.state] if moment.state.is_file() else sorted(moment.state.iterdir())
    content = {path.name: hashlib.blake2b(path.read_bytes()).hexdigest() for path in (moment.ram, *state)}
    times = {f"time of {path.name}": path.stat().st_mtime_ns for path in (moment.ram, moment.disk, *state)}
    return {**content, **times}


async def test_a_machine_wakes_in_its_own_directory_as_the_same_machine(
    driver: Hypervisor, any_machine: Machine, tmp_path: Path
) -> None:
    counting = await any_machine.link.start(Command(shell=_COUNTS))
    nonce = (await any_machine.link.ping()).nonce
    asleep = tmp_path / "asleep"
    woken = any_machine.running
    for _ in range(2):
        asleep.mkdir()
        await any_machine.link.drop_connections()
        woken = await _slept(driver, any_machine, woken, asleep)
        any_machine.running = woken
        shutil.rmtree(asleep)
    assert woken.memory is Memory.OWN
    link = linked(driver, woken, any_machine.secret)
    try:
        assert (await link.ping()).nonce == nonce
        assert counting.pid in [process.pid for process in await link.processes()]
    finally:
        await link.aclose()


async def _slept(driver: Hypervisor, machine: Machine, running: Running, asleep: Path) -> Running:
    """Save a machine, end it, and restore it paused, with its own memory file."""
    await driver.save(running, asleep)
    await driver.settle(asleep, machine.hardware, disk=machine.disk)
    await driver.stop(running)
    if not running.memory.in_file:
        (asleep / "ram").replace(machine.ram)
    ram = Ram(path=machine.ram, private=False)
    woken = await driver.restore(
        machine.directory, machine.hardware, ram=ram, disk=machine.disk, state=asleep / "state", run=False
    )
    assert await driver.problem(woken)
    await driver.resume(woken)
    assert await driver.problem(woken) == ""
    return woken


async def test_saved_memory_of_a_clone_has_holes_where_it_is_zero(machine_restored: Machine, tmp_path: Path) -> None:
    if machine_restored.driver.name == "qemu" and "CASEMATE_INSIDE_KVM_HOST" in os.environ:
        pytest.skip("the emulated host's disk is a tmpfs, on which QEMU fills holes as it reads them")
    kept = await saved(machine_restored, tmp_path / "kept")
    found = kept.ram.stat()
    assert found.st_size == kept.hardware.mem << 20
    assert found.st_blocks * 512 < found.st_size * 0.8
    assert {path.name for path in kept.directory.iterdir()} == {"ram", "state", "disk", "parts", "saved.json"}


@pytest.mark.kvm
async def test_a_full_disk_fails_a_save_and_the_machine_can_resume(
    driver: Hypervisor, moment: Checkpoint, small: Path
) -> None:
    async with cloned(driver, moment, small / "machine") as machine:
        (small / "target").mkdir()
        await machine.link.drop_connections()
        for _ in range(2):
            with pytest.raises(HostExhausted, match="disk is full"):
                await driver.save(machine.running, small / "target")
            assert list((small / "target").iterdir()) == []
            await driver.resume(machine.running)
            assert await said(machine, "cat /dev/shm/word") == "only in memory"


async def test_a_full_disk_fails_settling_and_can_be_settled_later(
    driver: Hypervisor, machine_restored: Machine, tmp_path: Path, small: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    await machine_restored.link.drop_connections()
    await driver.save(machine_restored.running, target)
    await driver.resume(machine_restored.running)
    stream = target / "stream"
    if not stream.exists():
        pytest.skip("this driver needs no room to settle")
    (small / "stream").symlink_to(stream)
    with pytest.raises(HostExhausted):
        await driver.settle(small, machine_restored.hardware, disk=machine_restored.disk)
    assert [path.name for path in small.iterdir()] == ["stream"]
    assert orphans(small) == {}


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Path]:
    """A file system with 60 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=60m", "small", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield place
    finally:
        await anyio.run_process(["umount", str(place)])


async def test_a_damaged_stream_is_an_error_and_leaves_nothing_behind(
    driver: Hypervisor, moment: Checkpoint, tmp_path: Path
) -> None:
    if driver.name != "qemu":
        pytest.skip("this driver has no streams")
    (tmp_path / "stream").write_bytes(b"no state of a machine")
    with pytest.raises(Unavailable):
        await driver.settle(tmp_path, moment.hardware, disk=moment.disk)
    assert [path.name for path in tmp_path.iterdir()] == ["stream"]
    assert orphans(tmp_path) == {}


async def test_a_machine_with_its_own_user_can_do_all_that_others_can(
    driver: Hypervisor, moment: Checkpoint, tmp_path: Path
) -> None:
    users = Confinement.find(kvm=driver.accelerator == "kvm").users
    if isinstance(users, NoUsers):
        pytest.skip(users.reason)
    async with cloned(driver, moment, tmp_path / "machine") as machine:
        assert _user(machine) == users.of(machine.directory).uid != os.geteuid()
        kept = await saved(machine, tmp_path / "kept")
        async with cloned(driver, kept, tmp_path / "child", own=True) as child:
            assert _user(child) not in {_user(machine), os.geteuid()}
            assert await said(child, "cat /dev/shm/word; echo x > /root/x; sync") == "only in memory"
            again = await saved(child, tmp_path / "again")
            assert {path.stat().st_uid for path in again.directory.rglob("*")} == {os.geteuid()}
            async with cloned(driver, again, tmp_path / "grandchild") as grandchild:
                assert await said(grandchild, "cat /dev/shm/word /root/x") == "only in memory\nx"
        assert await said(machine, "cat /dev/shm/word") == "only in memory"
    assert orphans(tmp_path) == {}


def _user(machine: Machine) -> int:
    return Path(f"/proc/{machine.running.process.pid}").stat().st_uid


@pytest.mark.kvm
async def test_a_save_begun_by_a_killed_server_does_not_pause_the_machine_again(
    driver: Hypervisor, machine_restored: Machine, tmp_path: Path
) -> None:
    for _ in range(3):
        with anyio.move_on_after(0.1):
            await _begin_to_save(driver, machine_restored.running, tmp_path)
        await driver.resume(machine_restored.running)
        assert await said(machine_restored, "sleep 0.5; cat /dev/shm/word") == "only in memory"
        assert await driver.problem(machine_restored.running) == ""


async def _begin_to_save(driver: Hypervisor, machine: Running, target: Path) -> None:
    """Do what a server does that is killed during a save, without its error handling."""
    if driver.name == "qemu":
        async with qmp(machine.directory / QMP_SOCKET) as control:
            await control.run("stop")
            # Slow enough to be interrupted.
            await control.run("migrate-set-parameters", {"max-bandwidth": 1024 * 1024})
            capability = {"capability": "x-ignore-shared", "state": False}
            await control.run("migrate-set-capabilities", {"capabilities": [capability]})
            await control.pass_file("state", target / "stream", os.O_RDWR | os.O_CREAT)
            await control.run("migrate", {"uri": "fd:state"})
            return
    place = machine.directory / "saved"
    place.mkdir(mode=0o777, exist_ok=True)
    place.chmod(0o777)
    async with api(machine.directory / "api.sock") as control:
        await control.call("PUT", "vm.pause")
        await control.call("PUT", "vm.snapshot", {"destination_url": "file://saved"})
