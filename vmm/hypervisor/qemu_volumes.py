"""Volumes of QEMU's machines: disks on a SCSI controller, the only bus of a microvm that takes devices at run time.

QEMU gets a volume's file as a descriptor, so it needs no rights to the file, and cannot write to one that was opened
for reading. Source: docs of QMP in QEMU 7.2 (`add-fd`, `blockdev-add`, `device_add`).
"""

from __future__ import annotations

import os
from typing import Any

import anyio

from .qemu_command import VOLUME_BUS
from .qmp import Qmp, QmpError
from .volume_disk import VolumeDisk, name_of, serial_of

_KIND = "child<scsi-hd>"
_GONE_S = 10.0
_POLL_S = 0.005


async def plug(control: Qmp, disk: VolumeDisk) -> None:
    """Add a disk. What an interrupted call left of it is replaced.

    Raises:
        QmpError: QEMU refused it; nothing of it is left.
    """
    await unplug(control, disk.serial)
    flags = os.O_RDONLY if disk.read_only else os.O_RDWR
    fdset = await control.add_file(disk.name, disk.path, flags | os.O_CLOEXEC)
    try:
        file = {"driver": "file", "filename": f"/dev/fdset/{fdset}", "read-only": disk.read_only}
        common = {"node-name": disk.name, "read-only": disk.read_only, "discard": "unmap"}
        await control.run("blockdev-add", {"driver": "raw", "file": file | {"discard": "unmap"}} | common)
        # As for the machine's own disk: if the host's disk is full, pause the machine instead of failing its writes.
        policy = {} if disk.read_only else {"werror": "enospc"}
        device = {"driver": "scsi-hd", "id": disk.name, "bus": f"{VOLUME_BUS}.0", "drive": disk.name}
        await control.run("device_add", device | {"serial": disk.serial} | policy)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await unplug(control, disk.serial)
        raise


async def unplug(control: Qmp, serial: str) -> None:
    """Remove a disk, whether the guest still uses it or not, and wait until its file is closed. May be repeated.

    Raises:
        QmpError: QEMU does not let go of it in time.
    """
    name = name_of(serial)
    if serial in await plugged(control):
        await control.run("device_del", {"id": name})
    with anyio.move_on_after(_GONE_S):
        while serial in await plugged(control) or not await _dropped(control, name):
            await anyio.sleep(_POLL_S)
        for fdset in await _fdsets(control, name):
            await control.run("remove-fd", {"fdset-id": fdset})
        return
    raise QmpError(f"The hypervisor did not let go of a volume within {_GONE_S:g} s")


async def plugged(control: Qmp) -> frozenset[str]:
    """Return the serial numbers of the disks that were added."""
    found: list[dict[str, Any]] = await control.run("qom-list", {"path": "/machine/peripheral"})
    return frozenset(serial_of(one["name"]) for one in found if one["type"] == _KIND)


async def _dropped(control: Qmp, name: str) -> bool:
    """Close a disk's file, and tell whether that is done; requests that are under way keep it open for a moment."""
    nodes: list[dict[str, Any]] = await control.run("query-named-block-nodes", {"flat": True})
    if all(node["node-name"] != name for node in nodes):
        return True
    try:
        await control.run("blockdev-del", {"node-name": name})
    except QmpError:
        return False
    return True


async def _fdsets(control: Qmp, name: str) -> list[int]:
    found: list[dict[str, Any]] = await control.run("query-fdsets")
    return [one["fdset-id"] for one in found if any(fd.get("opaque") == name for fd in one["fds"])]
