from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.vmm.hypervisor.ladder import cloned, said, saved
from vmm.hypervisor.base import Hypervisor, Memory
from vmm.hypervisor.ch_api import ApiError, api
from vmm.hypervisor.ch_snapshot import CopyOnWrite
from vmm.hypervisor.cloud_hypervisor import CloudHypervisor
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.kvm,
    pytest.mark.parametrize("driver", ["cloud-hypervisor"], indirect=True),
]


@pytest.fixture
def cloud_hypervisor(driver: Hypervisor) -> CloudHypervisor:
    assert isinstance(driver, CloudHypervisor)
    return driver


@pytest.fixture
def landlock(cloud_hypervisor: CloudHypervisor) -> None:
    if not cloud_hypervisor.landlock:
        pytest.skip("this host's kernel has no Landlock of version 3")


@pytest.mark.parametrize("way", [CopyOnWrite.NONE, CopyOnWrite.MODE])
async def test_memory_is_copied_if_it_cannot_be_shared(
    cloud_hypervisor: CloudHypervisor, moment: Checkpoint, tmp_path: Path, way: CopyOnWrite
) -> None:
    other = copy.copy(cloud_hypervisor)
    other.copy_on_write = way
    knows_the_mode = CopyOnWrite.of(other.version) is CopyOnWrite.MODE
    shared = way is CopyOnWrite.MODE and knows_the_mode
    async with cloned(other, moment, tmp_path / "machine") as machine:
        assert machine.running.memory is (Memory.MAPPED if shared else Memory.COPIED)
        assert await said(machine, "cat /dev/shm/word; echo changed > /dev/shm/word") == "only in memory"
        kept = await saved(machine, tmp_path / "kept")
    assert kept.ram.stat().st_blocks * 512 < kept.ram.stat().st_size * 0.8
    async with cloned(cloud_hypervisor, kept, tmp_path / "child") as child:
        assert await said(child, "cat /dev/shm/word") == "changed"


@pytest.mark.usefixtures("landlock")
async def test_a_machine_can_open_only_its_own_files(any_machine: Machine) -> None:
    with pytest.raises(ApiError, match=r"Permission denied|os error 13"):
        await _open_elsewhere(any_machine)
    assert await said(any_machine, "echo runs on") == "runs on"


async def test_without_landlock_the_same_file_can_be_opened(
    cloud_hypervisor: CloudHypervisor, moment: Checkpoint, tmp_path: Path
) -> None:
    free = copy.copy(cloud_hypervisor)
    free.landlock = False
    async with cloned(free, moment, tmp_path / "machine") as machine:
        await _open_elsewhere(machine)


async def _open_elsewhere(machine: Machine) -> None:
    """Make the program open a file that all users may read, as a compromised one would."""
    async with api(machine.directory / "api.sock") as control:
        await control.call("PUT", "vm.add-disk", {"path": "/bin/sh", "readonly": True, "image_type": "Raw"})
