from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.vmm.hypervisor.tap_network import lacking
from vmm.errors import Conflict
from vmm.hypervisor.base import Hardware
from vmm.hypervisor.wire import wired

pytestmark = pytest.mark.anyio

_TUNGETIFF = 0x800454D2
_PART = Path("part")


def hardware(*, nic: bool) -> Hardware:
    return Hardware(
        cpu=1, mem=16, kernel_elf=_PART, kernel_bz=_PART, initramfs=_PART, toolbox=_PART, base=_PART, nic=nic
    )


async def test_a_machine_without_a_device_needs_no_tap(tmp_path: Path) -> None:
    async with wired(None, tmp_path, hardware(nic=False)) as wire:
        assert wire == (None, None)


@pytest.mark.skipif(bool(lacking()), reason="this host can have no taps")
async def test_without_taps_a_device_is_connected_to_one_that_leads_nowhere(tmp_path: Path) -> None:
    before = set(Path("/sys/class/net").iterdir())
    async with wired(None, tmp_path, hardware(nic=True)) as (nic, tap):
        assert nic is None
        assert tap is not None
        name = fcntl.ioctl(tap, _TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode()
        assert set(Path("/sys/class/net").iterdir()) == before
        assert not Path("/sys/class/net", name).exists()
        # Whatever the guest sends is taken: an error would end the device of cloud-hypervisor.
        assert os.write(tap, bytes(72)) == 72
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tap)


async def test_where_none_can_be_made_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.hypervisor.blind_tap._DEVICE", str(tmp_path / "missing"))
    with pytest.raises(Conflict, match="can make no tap") as refused:
        async with wired(None, tmp_path, hardware(nic=True)):
            pass
    assert "from its disk" in refused.value.hint
