"""A checkpoint of a machine: a directory from which any number of machines can be made. It never changes.

    DIRECTORY/   saved.json  ram  state  disk  parts/

A template is a checkpoint, a snapshot holds one, and a fork makes one that lasts as long as the fork.
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
    """The files and secrets that machines are made from.

    Attributes:
        directory: The directory of its files.
        hardware: Hardware of the saved machine, which each machine made from it must have.
        secret: The agent's secret when it was saved; a clone gets its own at once.
        nonce: The agent's nonce, by which a clone proves that it was restored.
        fingerprint: The driver that saved it.
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
        """The state of the devices, in the driver's own format."""
        return self.directory / STATE

    @property
    def disk(self) -> Path:
        """The writable disk."""
        return self.directory / DISK

    def files(self) -> tuple[Path, ...]:
        """List its files, without the manifest."""
        return self.ram, self.state, self.disk, *(getattr(self.hardware, name) for name in _FILES)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Read a checkpoint; None if there is none. Blocks on the disk.

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
        """Write the manifest, after all other files. Blocks on the disk."""
        values = {
            FORMAT: _FORMAT,
            "hardware": sizes(self.hardware),
            "secret": self.secret.hex(),
            "nonce": self.nonce,
            "fingerprint": self.fingerprint,
        }
        write_private(self.directory / _MANIFEST, json.dumps(values))


def check_driver(fingerprint: str, driver: Hypervisor) -> None:
    """Refuse a driver that cannot load a saved state.

    Args:
        fingerprint: The driver that saved it.
        driver: The driver that should load it.

    Raises:
        Conflict: The message names both.
    """
    if fingerprint != driver.fingerprint:
        raise Conflict(
            f"Its memory was saved by {fingerprint} and loads only there; this host runs {driver.fingerprint}",
            hint="Start it from its disk instead, or install that hypervisor again",
        )


def sizes(hardware: Hardware) -> dict[str, int]:
    """Return what is not in the hardware's parts: the arguments of `hardware_in`."""
    return {
        "cpu": hardware.cpu,
        "mem": hardware.mem,
        "tsc_khz": hardware.tsc_khz,
        "nic": int(hardware.nic),
        "takes_nic": int(hardware.takes_nic),
        "volumes": int(hardware.volumes),
    }


def sizes_of(written: RecordFile) -> dict[str, int]:
    """Read the same from a file that holds it as `hardware`.

    Raises:
        Damaged: It is missing.
    """
    hardware = written.part("hardware")
    # Earlier releases had no network device and no volumes.
    return {name: hardware.number(name) for name in ("cpu", "mem", "tsc_khz")} | {
        name: hardware.number(name, 0) for name in ("nic", "takes_nic", "volumes")
    }


def hardware_in(
    directory: Path, *, cpu: int, mem: int, tsc_khz: int, nic: int = 0, takes_nic: int = 0, volumes: int = 0
) -> Hardware:
    """Return the hardware whose parts `link_parts` has put into a directory."""
    parts = directory / _PARTS
    return Hardware(
        cpu=cpu,
        mem=mem,
        tsc_khz=tsc_khz,
        nic=bool(nic),
        takes_nic=bool(takes_nic),
        volumes=bool(volumes),
        **{name: parts / file for name, file in _FILES.items()},
    )


def link_parts(hardware: Hardware, directory: Path) -> Hardware:
    """Hard-link the parts of a machine into a directory of its own, and return its hardware there.

    A sleeping machine can then wake even if images are pruned or upgraded. Where hard links are impossible, symbolic
    links point to the parts. Blocks on the disk.
    """
    linked = hardware_in(directory, **sizes(hardware))
    (directory / _PARTS).mkdir(mode=0o755, exist_ok=True)
    for name in _FILES:
        link(getattr(hardware, name), getattr(linked, name))
    return linked


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or make a symbolic link where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        target.symlink_to(source.resolve())


def write_private(path: Path, text: str) -> None:
    """Write a file completely or not at all, readable only by its owner. Blocks on the disk."""
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
