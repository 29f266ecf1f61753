"""A machine's configuration for cloud-hypervisor.

Source: the schema VmConfig of vmm/src/api/openapi/cloud-hypervisor.yaml, v53.0. Only this project's own values go in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import CONSOLE, Hardware
from .startup import named

KERNEL = "kernel"
"""The kernel's name in the machine's directory, there only until the machine is up.

A guest that reboots would be booted by the program again, as another machine: without the file it ends instead.
"""
VSOCK = "vsock.sock"
"""The socket of the guest link, in the machine's directory."""

_CID = 3
_MIB = 1024 * 1024


def machine_config(
    directory: Path, hardware: Hardware, *, ram: Path | None, shared: bool, disk: Path, landlock: bool
) -> dict[str, Any]:
    """What `vm.create` takes.

    Args:
        directory: The machine's own; files below are named from there.
        hardware: What the machine is made of.
        ram: The file behind its memory, if any.
        shared: Whether that file is the memory, rather than mapped copy-on-write.
        disk: Its writable disk.
        landlock: Whether the program is to confine itself to these files and the directory.
    """

    def at(path: Path) -> str:
        return named(path, directory)

    zone: dict[str, Any] = {"id": "ram", "size": hardware.mem * _MIB, "shared": shared}
    if ram is not None:
        zone["file"] = at(ram)
    config: dict[str, Any] = {
        # A guest needs no KVM of its own, and the host's has more to attack with it.
        "cpus": {"boot_vcpus": hardware.cpu, "max_vcpus": hardware.cpu, "nested": False},
        "memory": {"size": 0, "zones": [zone]},
        "payload": {
            "kernel": KERNEL,
            "initramfs": at(hardware.initramfs),
            "cmdline": "console=ttyS0 quiet panic=-1 reboot=k",
        },
        # Without the type, writes to the first sector of an image that looks raw are refused.
        "disks": [
            {"path": at(hardware.toolbox), "readonly": True, "image_type": "Raw", "id": "toolbox"},
            {"path": at(hardware.base), "readonly": True, "image_type": "Raw", "id": "base"},
            {"path": at(disk), "readonly": False, "image_type": "Raw", "id": "disk"},
        ],
        "serial": {"mode": "File", "file": CONSOLE},
        "console": {"mode": "Off"},
        "rng": {"src": "/dev/urandom"},
        # Relative to where it works, for a socket's address has no room for a long path.
        "vsock": {"cid": _CID, "socket": VSOCK},
    }
    if landlock:
        config["landlock_enable"] = True
        # Its sockets and snapshots are made while it runs, and may be anywhere in its directory.
        config["landlock_rules"] = [{"path": ".", "access": "rw"}]
    return config
