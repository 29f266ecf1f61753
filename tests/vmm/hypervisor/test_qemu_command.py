from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vmm.hypervisor.base import Hardware, Ram
from vmm.hypervisor.nic import BOOT_MAC
from vmm.hypervisor.qemu_command import command_line

_PART = Path("/images/part")
_HARDWARE = Hardware(cpu=1, mem=256, kernel_elf=_PART, kernel_bz=_PART, initramfs=_PART, toolbox=_PART, base=_PART)


def line(tap: int | None, hardware: Hardware = _HARDWARE) -> list[str]:
    place = Path("/machines/one")
    ram = Ram(path=place / "ram", private=False)
    return command_line("qemu", place, hardware, ram, place / "disk", kvm=False, tap=tap)


def test_a_network_device_comes_after_the_link_and_has_a_descriptor_for_its_tap() -> None:
    words = line(7, replace(_HARDWARE, nic=True))
    assert words[-4:] == [
        *("-netdev", "tap,id=net,fd=7,vhost=off"),
        *("-device", f"virtio-net-device,netdev=net,mac={BOOT_MAC}"),
    ]
    assert words[: len(line(None))] == line(None)
    assert words.index("virtio-net-device,netdev=link") < words.index("tap,id=net,fd=7,vhost=off")


@pytest.mark.parametrize("tap", [None, 7])
def test_the_program_may_neither_start_others_nor_gain_privileges_and_the_link_leads_nowhere(tap: int | None) -> None:
    words = line(tap)
    sandbox = words[words.index("-sandbox") + 1]
    assert {"on", "spawn=deny", "elevateprivileges=deny", "resourcecontrol=deny"} <= set(sandbox.split(","))
    assert any(word.startswith("user,id=link,restrict=on,") for word in words)
