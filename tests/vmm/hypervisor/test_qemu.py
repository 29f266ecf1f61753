from __future__ import annotations

from pathlib import Path

import pytest

from vmm.errors import Unavailable
from vmm.hypervisor.base import Hardware, Ram
from vmm.hypervisor.process import orphans
from vmm.hypervisor.qemu import Qemu

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("binary", ["qemu-system-x86_64", "/bin/false"])
async def test_a_hypervisor_that_fails_to_start_is_reported_and_killed(tmp_path: Path, binary: str) -> None:
    missing = tmp_path / "missing"
    hardware = Hardware(
        cpu=1, mem=256, kernel_elf=missing, kernel_bz=missing, initramfs=missing, toolbox=missing, base=missing
    )
    place = tmp_path / "machine"
    place.mkdir()
    driver = Qemu(binary, version="7.2", kvm=False, cpu_model="")
    with pytest.raises(Unavailable) as refused:
        await driver.restore(place, hardware, ram=Ram(path=place / "ram", private=False), disk=missing, state=missing)
    assert ("missing" in refused.value.message) == (binary != "/bin/false")
    assert orphans(tmp_path) == {}
