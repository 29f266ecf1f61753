"""The contract of every driver about volumes, for machines of every origin."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.vmm.hypervisor.ladder import cloned, said, saved
from vmm.errors import Conflict
from vmm.guest.values import Command
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.volume_disk import VolumeDisk
from vmm.images.disk import make_volume
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SERIAL, OTHER = "0123456789abcdef0123", "f" * 20


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    await make_volume(tmp_path / "volume", 64)
    return tmp_path / "volume"


def opened(machine: Machine, file: Path) -> bool:
    """Whether the hypervisor has a file open."""
    wanted = file.stat()
    for one in Path(f"/proc/{machine.running.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.path.samestat(one.stat(), wanted):
                return True
    return False


@pytest.mark.kvm
async def test_a_volume_comes_and_goes_while_a_machine_runs(any_machine: Machine, file: Path) -> None:
    driver, running, link = any_machine.driver, any_machine.running, any_machine.link
    assert await driver.plugged(running) == frozenset()
    await driver.plug(running, VolumeDisk(serial=SERIAL, path=file, read_only=False))
    assert await driver.plugged(running) == {SERIAL}
    await link.mount_volume(SERIAL, "/data", read_only=False)
    await link.mount_volume(SERIAL, "/data", read_only=False)
    await said(any_machine, "echo kept > /data/file; cp /bin/true /data/true; chmod u+s /data/true")
    await link.unmount_volume(SERIAL)
    await driver.unplug(running, SERIAL)
    await driver.unplug(running, SERIAL)
    assert await driver.plugged(running) == frozenset()
    assert not opened(any_machine, file)
    await driver.plug(running, VolumeDisk(serial=OTHER, path=file, read_only=True))
    await link.mount_volume(OTHER, "/other", read_only=True)
    assert await said(any_machine, "cat /other/file; touch /other/x 2>&1 || true; ls /data | wc -l") == (
        "kept\ntouch: cannot touch '/other/x': Read-only file system\n0"
    )
    assert sorted(path.name for path in any_machine.directory.glob("v*")) in ([], ["vsock.sock"])
    await link.unmount_volume(OTHER)
    await driver.unplug(running, OTHER)
    assert await driver.problem(running) == ""


@pytest.mark.kvm
async def test_a_machine_saved_without_its_volume_runs_on_and_is_cloned(
    driver: Hypervisor, machine_cloned: Machine, file: Path, tmp_path: Path
) -> None:
    disk = VolumeDisk(serial=SERIAL, path=file, read_only=False)
    await driver.plug(machine_cloned.running, disk)
    await machine_cloned.link.mount_volume(SERIAL, "/data", read_only=False)
    await said(machine_cloned, "echo one > /data/file")
    held = (await machine_cloned.link.start(Command(shell="cd /data && exec sleep 1000"))).pid
    await said(machine_cloned, f"until [ $(readlink /proc/{held}/cwd) = /data ]; do sleep 0.05; done")
    with pytest.raises(Conflict, match=rf"/data is in use by sleep \({held}\)"):
        await machine_cloned.link.unmount_volume(SERIAL)
    await machine_cloned.link.signal(held, 9)
    await machine_cloned.link.wait(held, wait_ms=10_000)
    await machine_cloned.link.unmount_volume(SERIAL)
    await driver.unplug(machine_cloned.running, SERIAL)
    origin: Checkpoint = await saved(machine_cloned, tmp_path / "saved")
    await driver.plug(machine_cloned.running, disk)
    await machine_cloned.link.mount_volume(SERIAL, "/data", read_only=False)
    assert await said(machine_cloned, "cat /data/file") == "one"
    async with cloned(driver, origin, tmp_path / "child") as child:
        assert await said(child, "ls -A /data") == ""
        await make_volume(tmp_path / "own", 64)
        await driver.plug(child.running, VolumeDisk(serial=SERIAL, path=tmp_path / "own", read_only=False))
        await child.link.mount_volume(SERIAL, "/data", read_only=False)
        assert await said(child, "ls -A /data; echo mine > /data/mine; cat /data/mine") == "mine"
