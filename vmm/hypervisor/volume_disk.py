"""A volume's file as a disk that is added to a machine while it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SERIAL_LENGTH = 20
"""Characters of a virtio disk's serial number, by which the guest finds the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDisk:
    """What a driver needs to add a volume.

    Attributes:
        serial: Lower-case hex digits, which the guest sees; unique within the machine.
        path: The file.
        read_only: Whether the machine may not write to it, which the host enforces.
    """

    serial: str
    path: Path
    read_only: bool

    @property
    def name(self) -> str:
        """The hypervisor's name of the disk."""
        return name_of(self.serial)

    @staticmethod
    def is_name(name: str) -> bool:
        """Tell whether a device of a machine is a volume's disk, by its name."""
        return _NAME.fullmatch(name) is not None


def name_of(serial: str) -> str:
    """Return the hypervisor's name of the disk with a serial number: it must begin with a letter."""
    return f"v{serial}"


def serial_of(name: str) -> str:
    """Return the serial number of the disk with a hypervisor's name."""
    return name.removeprefix("v")


_NAME = re.compile(rf"v[0-9a-f]{{{SERIAL_LENGTH}}}")
