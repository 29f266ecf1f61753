"""Volumes of cloud-hypervisor's machines: virtio-blk disks on PCI, added and removed while the machine runs.

The program opens files by name, and Landlock lets it open only what is in its directory. So it gets a hard link there,
which is removed as soon as the file is open. Source: vmm/src/device_manager.rs of v53.0: a removed device stays in the
device tree, with its file open, until the guest has let go of it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from ..errors import Unavailable
from .ch_api import Api, ApiError
from .confinement import Confinement
from .process import ProcessRef
from .volume_disk import VolumeDisk, name_of, serial_of

_GONE_S = 30.0
_POLL_S = 0.02


async def plug(control: Api, directory: Path, process: ProcessRef, disk: VolumeDisk, confinement: Confinement) -> None:
    """Add a disk. What an interrupted call left of it is removed first.

    Raises:
        ApiError: The program refused it.
        Unavailable: The machine's directory is on another file system than the volume.
    """
    await unplug(control, process, disk.serial)
    name = directory / disk.name
    try:
        await anyio.to_thread.run_sync(_link, disk, name)
        await confinement.lend(name, writable=not disk.read_only)
        config = {"path": disk.name, "readonly": disk.read_only, "image_type": "Raw"}
        await control.call("PUT", "vm.add-disk", config | {"id": disk.name, "serial": disk.serial})
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(name).unlink(missing_ok=True)


async def unplug(control: Api, process: ProcessRef, serial: str) -> None:
    """Remove a disk, and wait until the guest has let go of it and its file is closed. May be repeated.

    Raises:
        ApiError: The guest does not let go of it in time.
    """
    name = name_of(serial)
    configured, _ = await _devices(control)
    if name in configured:
        await control.call("PUT", "vm.remove-device", {"id": name})
    with anyio.move_on_after(_GONE_S):
        while name in (await _devices(control))[1] or await anyio.to_thread.run_sync(_opens, process, name):
            await anyio.sleep(_POLL_S)
        return
    raise ApiError(f"The guest did not let go of a volume within {_GONE_S:g} s", hint="Restart the sandbox")


async def plugged(control: Api) -> frozenset[str]:
    """Return the serial numbers of the disks that were added, and of those that the guest has not let go of."""
    configured, present = await _devices(control)
    return frozenset(serial_of(name) for name in configured | present if VolumeDisk.is_name(name))


async def _devices(control: Api) -> tuple[set[str], set[str]]:
    """Return the names of the disks that are configured, and of all devices that exist."""
    info: dict[str, Any] = await control.call("GET", "vm.info")
    disks: list[dict[str, Any]] = info["config"].get("disks") or []
    tree: dict[str, Any] = info.get("device_tree") or {}
    return {str(disk.get("id")) for disk in disks}, set(tree)


def _opens(process: ProcessRef, name: str) -> bool:
    """Tell whether a process has a file open that was linked under this name."""
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            if descriptor.readlink().name.partition(" ")[0] == name:
                return True
    return False


def _link(disk: VolumeDisk, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        name.hardlink_to(disk.path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(
            f"A volume cannot be linked into the machine's directory: {error.strerror}",
            hint="The operator must keep the machines' directories and the volumes on one file system",
        ) from error
    # What an earlier machine needed of it does not matter any more.
    name.chmod(0o600)
