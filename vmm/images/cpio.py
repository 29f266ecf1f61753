"""Writes cpio archives in the "newc" format for the initramfs, reproducibly: the same entries give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_DIRECTORY = 0o040000
_FILE = 0o100000
_LINK = 0o120000
_DEVICE = 0o020000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an archive; root owns it, and its modification time is the epoch.

    Attributes:
        name: Path without a leading slash.
        mode: Type and permissions.
        data: Content, or the target of a symbolic link.
        device: Major and minor number of a device.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    """Make an entry for a directory."""
    return Entry(name=name, mode=_DIRECTORY | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """Make an entry for a regular file."""
    return Entry(name=name, mode=_FILE | mode, data=data)


def link(name: str, target: str) -> Entry:
    """Make an entry for a symbolic link."""
    return Entry(name=name, mode=_LINK | 0o777, data=target.encode())


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Make an entry for a character device."""
    return Entry(name=name, mode=_DEVICE | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Pack all entries in their order; a directory must come before its content."""
    parts = [_encode(number, entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*parts, _encode(0, Entry(name="TRAILER!!!", mode=0))])


def _encode(number: int, entry: Entry) -> bytes:
    path = entry.name.encode() + b"\0"
    links = 2 if entry.mode & 0o170000 == _DIRECTORY else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
