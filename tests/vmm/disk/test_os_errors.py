"""What goes wrong with the host's files is told in one way at every step that touches them."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import anyio
import pytest

from storage.ids import new_id
from tests.vmm import still
from tests.vmm.images.tiny_recipes import tiny_catalogue
from vmm.disk.os_errors import file_system, translate_os_errors
from vmm.errors import HostExhausted, Unavailable
from vmm.hypervisor.base import Memory, Running
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.process import ProcessRef
from vmm.machines import suspend
from vmm.machines.checkpoint import Checkpoint, hardware_in
from vmm.machines.clone import no_progress
from vmm.machines.machine import Machine, MachineRecord
from vmm.machines.snapshots import Snapshot, Snapshots
from vmm.machines.template import template_key
from vmm.machines.templates import Templates
from vmm.sandboxes.sandbox import State

pytestmark = pytest.mark.anyio

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system for the host's disk")
Step = Callable[["Host"], Awaitable[object]]


class Host:
    """What steps work on: a snapshot, a machine that sleeps and one that runs, in a place; and the driver."""

    def __init__(self, place: Path, choice: Choice) -> None:
        self.place = place
        self.driver = choice.driver
        self.machines = place / "instances"
        self.snapshots = Snapshots(place / "snapshots")
        self.sleeper = still.asleep(self.machines / new_id(), fingerprint=choice.driver.fingerprint)
        directory = still.furnished(self.machines / new_id(), fingerprint=choice.driver.fingerprint)
        record = MachineRecord.read(directory)
        assert record is not None
        running = Running(directory=directory, process=ProcessRef(2**22, 1), port=1, memory=Memory.OWN)
        self.machine = Machine.recorded(choice.driver, running, record)
        kept = place / "snapshots" / new_id()
        kept.mkdir(parents=True)
        self.snapshot = Snapshot(
            id=kept.name,
            owner="a" * 24,
            sandbox=new_id(),
            sandbox_name="box",
            name="first",
            parent="",
            image="minimal",
            cpu=1,
            mem=256,
            disk=1,
            driver=choice.driver.fingerprint,
        )
        self.checkpoint = Checkpoint(
            directory=kept,
            hardware=hardware_in(self.sleeper, cpu=1, mem=256, tsc_khz=0),
            secret=b"s",
            nonce="n",
            fingerprint=choice.driver.fingerprint,
        )

    async def clone(self) -> Machine:
        return await Machine.clone(self.driver, self.checkpoint, self.machines / new_id(), hostname="box", own=True)


STEPS: dict[str, Step] = {
    "draft": lambda host: host.snapshots.draft(new_id()),
    "fork": lambda host: host.snapshots.fork_base(new_id()),
    "rename": lambda host: host.snapshots.rename(host.snapshot, "second"),
    "clone": lambda host: host.clone(),
    "write down": lambda host: host.machine.save_record(),
}


@pytest.fixture
def small(tmp_path: Path) -> Generator[Path]:
    with still.mounted(tmp_path / "small", "size=1m,nr_inodes=64") as place:
        yield place


def fill(place: Path) -> None:
    """Leave no space for a byte, and none for a name."""
    with pytest.raises(OSError, match="No space left"), (place / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(4096))
            ballast.flush()
    with pytest.raises(OSError, match="No space left"):
        for number in range(100):
            (place / f"inode-{number}").mkdir()


@as_root
@pytest.mark.parametrize("step", STEPS)
async def test_a_full_disk_is_reported_with_its_file_system(small: Path, choice: Choice, step: str) -> None:
    host = Host(small, choice)
    fill(small)
    with pytest.raises(HostExhausted, match=f"disk is full: no space for .* on {small}") as refused:
        await STEPS[step](host)
    assert refused.value.hint
    await host.machine.link.aclose()


@as_root
@pytest.mark.parametrize("step", [*STEPS, "remove"])
async def test_a_read_only_disk_is_reported_with_the_directory(small: Path, choice: Choice, step: str) -> None:
    host = Host(small, choice)
    steps: dict[str, Step] = {**STEPS, "remove": lambda host: host.snapshots.remove(host.snapshot)}
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(Unavailable, match=f"Read-only file system .{small}"):
        await steps[step](host)
    await host.machine.link.aclose()


@pytest.mark.parametrize("step", ["rename", "clone", "write down", "list", "read", "wake", "copy"])
async def test_too_many_open_files_are_reported(tmp_path: Path, choice: Choice, step: str) -> None:
    host = Host(tmp_path, choice)
    (tmp_path / "target").mkdir()
    more: dict[str, Step] = {
        "list": lambda host: host.snapshots.all(),
        "read": lambda host: Machine.adopt(host.driver, host.sleeper),
        "wake": lambda host: suspend.wake(host.driver, host.sleeper),
        "copy": lambda host: suspend.copy_sleeper(host.sleeper, tmp_path / "target"),
    }
    await anyio.to_thread.run_sync(lambda: None)  # a thread takes files, too
    with still.no_more_files(), pytest.raises(HostExhausted, match="too many files open") as refused:
        await {**STEPS, **more}[step](host)
    assert "LimitNOFILE" in refused.value.hint
    assert await host.snapshots.all() == []
    await host.machine.link.aclose()


async def test_errors_that_are_not_the_hosts_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(KeyError), translate_os_errors("a thing", tmp_path):
        raise KeyError
    with (
        pytest.raises(Unavailable, match="failed at a thing: it takes too long"),
        translate_os_errors("a thing", tmp_path),
    ):
        raise TimeoutError
    with pytest.raises(Unavailable, match=f"Input/output error .{tmp_path}"), translate_os_errors("a thing", tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path))


@as_root
def test_a_file_system_is_named_by_its_mount_point(small: Path) -> None:
    assert file_system(small / "not" / "there") == small
    assert file_system(Path("/")) == Path("/")


async def test_each_failed_fork_has_its_own_result(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        parent = await still.kept(there.collection, State.ASLEEP)
        base = still.furnished(tmp_path / "base", fingerprint=choice.driver.fingerprint)
        (base / "disk").unlink()
        checkpoint = Checkpoint(
            directory=base,
            hardware=hardware_in(base, cpu=1, mem=256, tsc_khz=0),
            secret=b"s",
            nonce="n",
            fingerprint=choice.driver.fingerprint,
        )
        forks = await there.inner("sandboxes._creator").children(parent, checkpoint, 3, "")
        assert [isinstance(fork.error, Unavailable) for fork in forks] == [True] * 3
        assert [fork.error.message for fork in forks if fork.error and "a new machine" not in fork.error.message] == []
        assert list(there.instances.iterdir()) == []
        assert (await there.fleet.sandboxes.list(parent.owner)).items == (parent,)


async def test_a_damaged_or_incomplete_template_is_rebuilt(tmp_path: Path, choice: Choice) -> None:
    images = await tiny_catalogue(tmp_path / "images", tmp_path / "log").build("minimal")
    key = template_key(choice.driver, images, 1, 256)
    base = still.furnished(tmp_path / "templates" / key, fingerprint=choice.driver.fingerprint)
    (base / "state").touch()
    whole = Checkpoint(
        directory=base,
        hardware=hardware_in(base, cpu=1, mem=256, tsc_khz=0),
        secret=b"s",
        nonce="n",
        fingerprint=choice.driver.fingerprint,
    )
    whole.write()

    async def verify(name: str) -> None:
        raise Unavailable(f"{name} is built anew")

    async with anyio.create_task_group() as tasks:
        templates = Templates(choice.driver, tmp_path / "templates", tasks, verify)
        for spoil, mend in (
            ((base / "ram").unlink, (base / "ram").touch),
            (lambda: still.change(base / "saved.json", nonce=None), whole.write),
        ):
            spoil()
            with pytest.raises(Unavailable, match="minimal is built anew"):
                await templates.get(images, cpu=1, mem=256, report=no_progress)
            mend()
        assert await templates.get(images, cpu=1, mem=256, report=no_progress) == whole
        (base / "ram").unlink()
        with pytest.raises(Unavailable, match="minimal is built anew"):
            await templates.get(images, cpu=1, mem=256, report=no_progress)
