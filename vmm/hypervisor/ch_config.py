"""The configuration of a machine for cloud-hypervisor.

Source: the schema VmConfig of vmm/src/api/openapi/cloud-hypervisor.yaml, v53.0. Only this project's own values go in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import CONSOLE, Hardware
from .nic import BOOT_MAC
from .startup import named

KERNEL = "kernel"
"""The kernel's file name in the machine's directory, which exists only until the machine has started.

Otherwise, a guest that reboots would boot again as another machine; without the file, a reboot ends it.
"""
VSOCK = "vsock.sock"
"""The socket of the guest link, in the machine's directory."""

NET: dict[str, Any] = {"id": "net", "mac": BOOT_MAC}
"""The argument of `vm.add-net`. `vm.create` takes no descriptors, and would make a tap of its own."""

_CID = 3
_MIB = 1024 * 1024


def machine_config(
    directory: Path, hardware: Hardware, *, ram: Path | None, shared: bool, disk: Path, landlock: bool
) -> dict[str, Any]:
    """Make the argument of `vm.create`.

    Args:
        directory: The machine's directory; files below it are named relative to it.
        hardware: The parts of the machine.
        ram: The file behind its memory, if any.
        shared: Whether that file is the memory, rather than mapped copy-on-write.
        disk: Its writable disk.
        landlock: Whether the program should restrict itself to these files and the directory.
    """

    def at(path: Path) -> str:
        return named(path, directory)

    zone: dict[str, Any] = {"id": "ram", "size": hardware.mem * _MIB, "shared": shared}
    if ram is not None:
        zone["file"] = at(ram)
    config: dict[str, Any] = {
        # Guests need no nested KVM, which would only add to the host's attack surface.
        "cpus": {"boot_vcpus": hardware.cpu, "max_vcpus": hardware.cpu, "nested": False},
        "memory": {"size": 0, "zones": [zone]},
        "payload": {
            "kernel": KERNEL,
            "initramfs": at(hardware.initramfs),
            "cmdline": "console=ttyS0 quiet panic=-1 reboot=k",
        },
        # Without the type, the program refuses writes to the first sector of an image that looks raw.
        "disks": [
            {"path": at(hardware.toolbox), "readonly": True, "image_type": "Raw", "id": "toolbox"},
            {"path": at(hardware.base), "readonly": True, "image_type": "Raw", "id": "base"},
            {"path": at(disk), "readonly": False, "image_type": "Raw", "id": "disk"},
        ],
        "serial": {"mode": "File", "file": CONSOLE},
        "console": {"mode": "Off"},
        "rng": {"src": "/dev/urandom"},
        # Relative to its working directory, because a socket's address cannot hold a long path.
        "vsock": {"cid": _CID, "socket": VSOCK},
    }
    if landlock:
        config["landlock_enable"] = True
        # The program creates sockets and snapshots at run time, anywhere in its directory.
        config["landlock_rules"] = [{"path": ".", "access": "rw"}]
    return config
