"""The files of a cloud-hypervisor snapshot: adapts them to another machine, and takes them over after a save.

Source: vmm/src/memory_manager.rs of v51.0 to v53.0. A snapshot is `config.json`, `state.json` and, for memory that is
not in a shared file, `memory-ranges`: the guest's memory in the order of its addresses. A zone's file has the same
layout, so one file serves as both. The kept `state.json` has no list of ranges, so nothing is copied.
"""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any

from .ch_api import ApiError
from .startup import link

CONFIG, STATE, RANGES = "config.json", "state.json", "memory-ranges"


_HAS_MODE = 54
_NONE = -1


class CopyOnWrite(StrEnum):
    """How a version shares a saved memory file between clones."""

    ZONE = "zone"
    """Maps the zone's file privately; the snapshot says that there is nothing to copy (v51 to v53)."""
    MODE = "mode"
    """`memory_restore_mode: CopyOnWrite` (v54 and later): maps the snapshot's file for memory without one."""
    NONE = "none"
    """Not shared: copies the memory."""

    @classmethod
    def of(cls, version: str) -> CopyOnWrite:
        """Return what a version supports."""
        return cls.MODE if int(version.partition(".")[0]) >= _HAS_MODE else cls.ZONE


def prepare(saved: Path, target: Path, config: dict[str, Any], ram: Path | None) -> None:
    """Copy a snapshot for another machine, with its file names. Blocks on the disk.

    Args:
        saved: The snapshot.
        target: A directory for the copy; replaced if it exists.
        config: The machine's configuration, whose files and memory are used, with its network device under `net`.
        ram: The memory's file if the program reads or maps it as part of the snapshot; None if its configuration
            names it.

    Raises:
        ApiError: It is damaged, or has another format.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    try:
        merged = _merged(json.loads((saved / CONFIG).read_text()), config)
        (target / CONFIG).write_text(json.dumps(merged))
        if ram is None:
            shutil.copyfile(saved / STATE, target / STATE)
            return
        state = json.loads((saved / STATE).read_text())
        memory = _memory(state)
        _set_ranges(memory, [{"gpa": part["gpa"], "length": part["size"]} for part in _mappings(memory)])
        (target / STATE).write_text(json.dumps(_with_memory(state, memory)))
    except (KeyError, TypeError, ValueError) as error:
        raise ApiError(f"The snapshot {saved.name} has a format that this server does not support") from error
    link(ram, target / RANGES)


def take(source: Path, state: Path, ranges: Path) -> None:
    """Move what the program wrote to where every way of restoring finds it. Blocks on the disk.

    Args:
        source: The directory it wrote to; removed afterwards.
        state: A new directory for the state of the devices.
        ranges: The file for the memory, if the program wrote it.

    Raises:
        ApiError: It has another format.
    """
    state.mkdir(mode=0o700)
    try:
        written = json.loads((source / STATE).read_text())
        memory = _memory(written)
        offset = 0
        for part in _mappings(memory):
            # For memory without a file the program records no offsets, and would map every range from the file's start.
            part["file_offset"] = offset
            offset += part["size"]
        if (source / RANGES).exists():
            _check_order(memory)
            shutil.move(source / RANGES, ranges)
        _set_ranges(memory, [])
        (state / STATE).write_text(json.dumps(_with_memory(written, memory)))
        shutil.move(source / CONFIG, state / CONFIG)
    except (KeyError, TypeError, ValueError) as error:
        raise ApiError("The hypervisor wrote a snapshot in a format that this server does not support") from error
    shutil.rmtree(source)


def _merged(saved: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    zone = saved["memory"]["zones"][0]
    zone.pop("file", None)
    zone |= own["memory"]["zones"][0]
    for disk, named in zip(saved["disks"], own["disks"], strict=True):
        disk["path"] = named["path"]
    for net, named in zip(saved.get("net") or [], own.get("net", []), strict=True):
        # The number counts, not the value: the program expects as many descriptors with the call.
        net.update(named, fds=[_NONE])
    for name in ("payload", "serial", "vsock"):
        saved[name] |= own[name]
    saved["landlock_enable"] = own.get("landlock_enable", False)
    saved["landlock_rules"] = own.get("landlock_rules")
    return saved


def _memory(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(state["snapshots"]["memory-manager"]["snapshot_data"]["state"])


def _with_memory(state: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    state["snapshots"]["memory-manager"]["snapshot_data"]["state"] = json.dumps(memory)
    return state


def _mappings(memory: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(memory["guest_ram_mappings"], key=lambda part: part["gpa"])


def _set_ranges(memory: dict[str, Any], ranges: list[dict[str, Any]]) -> None:
    memory["memory_ranges"]["data"] = ranges


def _check_order(memory: dict[str, Any]) -> None:
    written = [(part["gpa"], part["length"]) for part in memory["memory_ranges"]["data"]]
    if written != [(part["gpa"], part["size"]) for part in _mappings(memory)]:
        raise ValueError
