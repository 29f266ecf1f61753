"""A saved moment of a machine: a directory from which any number of machines can be made. It never changes.

    DIRECTORY/   saved.json  ram  state  disk  parts/

A template is one, a snapshot holds one, and a fork makes one that lasts as long as the fork.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ..disk.record_file import FORMAT, RecordFile
from ..errors import Conflict
from ..hypervisor.base import Hardware, Hypervisor

RAM, STATE, DISK = "ram", "state", "disk"

_MANIFEST = "saved.json"
_FORMAT = 1
_HINT = "Use another one, and delete this one"
_PARTS = "parts"
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a machine can be made from.

    Attributes:
        directory: Where its files are.
        hardware: What the machine was made of, and each one made from it must be.
        secret: The agent's secret at that moment; a clone gets its own at once.
        nonce: The agent's nonce, by which a clone proves that it was restored.
        fingerprint: Of the driver that saved it.
    """

    directory: Path
    hardware: Hardware
    secret: bytes = field(repr=False)
    nonce: str
    fingerprint: str

    @property
    def ram(self) -> Path:
        """The memory."""
        return self.directory / RAM

    @property
    def state(self) -> Path:
        """The devices, in the driver's own form."""
        return self.directory / STATE

    @property
    def disk(self) -> Path:
        """The writable disk."""
        return self.directory / DISK

    def files(self) -> tuple[Path, ...]:
        """Its files, without what tells about them."""
        return self.ram, self.state, self.disk, *(getattr(self.hardware, name) for name in _FILES)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Read a saved moment back; None if there is none. Blocks for as long as a disk does.

        Raises:
            Damaged: Its manifest cannot be read.
        """
        written = RecordFile.read(directory / _MANIFEST, newest=_FORMAT, hint=_HINT)
        if written is None:
            return None
        return cls(
            directory=directory,
            hardware=hardware_in(directory, **sizes_of(written)),
            secret=written.secret("secret"),
            nonce=written.text("nonce"),
            fingerprint=written.text("fingerprint"),
        )

    def write(self) -> None:
        """Write the manifest, as the last of the files. Blocks for as long as a disk does."""
        values = {
            FORMAT: _FORMAT,
            "hardware": sizes(self.hardware),
            "secret": self.secret.hex(),
            "nonce": self.nonce,
            "fingerprint": self.fingerprint,
        }
        write_private(self.directory / _MANIFEST, json.dumps(values))


def check_driver(fingerprint: str, driver: Hypervisor) -> None:
    """Refuse a driver that could not load a state.

    Args:
        fingerprint: Of the driver that saved it.
        driver: The one that is to load it.

    Raises:
        Conflict: The message names both.
    """
    if fingerprint != driver.fingerprint:
        raise Conflict(
            f"Its memory was saved by {fingerprint} and loads into nothing else; this host runs {driver.fingerprint}",
            hint="Start it from its disk instead, or bring that hypervisor back",
        )


def sizes(hardware: Hardware) -> dict[str, int]:
    """What of a machine's hardware is not in its parts: the arguments of `hardware_in`."""
    return {"cpu": hardware.cpu, "mem": hardware.mem, "tsc_khz": hardware.tsc_khz}


def sizes_of(written: RecordFile) -> dict[str, int]:
    """The same, out of a file that holds them as `hardware`.

    Raises:
        Damaged: They are not there.
    """
    hardware = written.part("hardware")
    return {name: hardware.number(name) for name in ("cpu", "mem", "tsc_khz")}


def hardware_in(directory: Path, *, cpu: int, mem: int, tsc_khz: int) -> Hardware:
    """The hardware whose parts `link_parts` has put into a directory."""
    parts = directory / _PARTS
    return Hardware(cpu=cpu, mem=mem, tsc_khz=tsc_khz, **{name: parts / file for name, file in _FILES.items()})


def link_parts(hardware: Hardware, directory: Path) -> Hardware:
    """The same hardware, with its parts as hard links in a directory of its own.

    So whatever is pruned or upgraded, what sleeps can wake. Where hard links cannot be, symbolic ones point to the
    parts. Blocks for as long as a disk does.
    """
    linked = hardware_in(directory, **sizes(hardware))
    (directory / _PARTS).mkdir(mode=0o755, exist_ok=True)
    for name in _FILES:
        link(getattr(hardware, name), getattr(linked, name))
    return linked


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or a pointer where the file system has no second names."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        target.symlink_to(source.resolve())


def write_private(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all, for the owner's eyes. Blocks for as long as a disk does."""
    draft = path.with_suffix(".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


_FILES = {
    "kernel_elf": "vmlinux",
    "kernel_bz": "vmlinuz",
    "initramfs": "initramfs",
    "toolbox": "toolbox",
    "base": "base",
}
