from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.vmm.hypervisor.ladder import cloned, said, saved
from vmm.hypervisor.base import Hypervisor, Memory
from vmm.hypervisor.ch_snapshot import CopyOnWrite
from vmm.hypervisor.cloud_hypervisor import CloudHypervisor
from vmm.saved import Saved

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.kvm, pytest.mark.timeout(300)]


@pytest.mark.parametrize("way", [CopyOnWrite.NONE, CopyOnWrite.MODE])
async def test_memory_is_copied_where_it_cannot_be_shared(
    driver: Hypervisor, moment: Saved, tmp_path: Path, way: CopyOnWrite
) -> None:
    if not isinstance(driver, CloudHypervisor):
        pytest.skip("this driver always shares")
    other = copy.copy(driver)
    other.copy_on_write = way
    knows_the_mode = CopyOnWrite.of(driver.version) is CopyOnWrite.MODE
    shared = way is CopyOnWrite.MODE and knows_the_mode
    async with cloned(other, moment, tmp_path / "machine") as machine:
        assert machine.running.memory is (Memory.MAPPED if shared else Memory.COPIED)
        assert await said(machine, "cat /dev/shm/word; echo changed > /dev/shm/word") == "only in memory"
        kept = await saved(machine, tmp_path / "kept")
    assert kept.ram.stat().st_blocks * 512 < kept.ram.stat().st_size * 0.8
    async with cloned(driver, kept, tmp_path / "child") as child:
        assert await said(child, "cat /dev/shm/word") == "changed"
