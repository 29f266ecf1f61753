"""Entries of the file system: their description, and the system-call helpers that the file calls share.

Paths are bytes, as in the kernel: an image may have names that are not valid UTF-8, and bytes need no decoding.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from .refusals import FULL, REFUSED, RefusalError, from_os_error, shown

DRAFT = b".casemate-"
"""How the names of the agent's temporary files begin."""


def describe(path: bytes, status: os.stat_result | None = None) -> dict[str, Any]:
    """Return the entry at `path` in the host's form; a symbolic link is described itself.

    Raises:
        RefusalError: There is no such entry, or it cannot be read.
    """
    try:
        status = status or os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
    except OSError as error:
        raise from_os_error(error, path) from error
    return {
        "path": text(path),
        "kind": kind_of(status.st_mode),
        "size": status.st_size,
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ms": status.st_mtime_ns // 1_000_000,
        "target": text(target),
    }


def kind_of(mode: int) -> str:
    """Return the kind of entry that has this mode."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def text(raw: bytes) -> str:
    """Decode a name; bytes that are not UTF-8 are escaped, and no request can name such an entry."""
    return raw.decode("utf-8", "backslashreplace")


def status_of(path: bytes) -> os.stat_result | None:
    """Return the status of the entry itself, or None if there is none."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, path) from error


def parent_of(path: bytes) -> bytes:
    """Return the directory that contains `path`."""
    return path.rstrip(b"/").rpartition(b"/")[0] or b"/"


def final(path: bytes) -> bytes:
    """Return the final target of `path` if it is a symbolic link, else `path` itself."""
    status = status_of(path)
    return os.path.realpath(path) if status is not None and stat.S_ISLNK(status.st_mode) else path


def make_parents(path: bytes) -> None:
    """Create the missing directories above `path`."""
    try:
        os.makedirs(parent_of(path), exist_ok=True)
    except OSError as error:
        raise from_os_error(error, parent_of(path)) from error


def open_regular(path: bytes) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; other kinds are refused, since reading them could block or never end.

    Raises:
        RefusalError: The file is missing, not a regular file, or cannot be opened.
    """
    try:
        # Checked before opening, which already has an effect on some devices: a watchdog starts its countdown.
        _check_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def _check_regular(path: bytes, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
        raise RefusalError(REFUSED, f"{shown(path)}: {kind}")


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte.

    Raises:
        RefusalError: The disk is full.
    """
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if not written:
            raise RefusalError(FULL, "the file system takes no more data")
        view = view[written:]


def temporary(path: bytes) -> bytes:
    """Return an unused name for a temporary file next to `path`."""
    return parent_of(path).rstrip(b"/") + b"/" + DRAFT + os.urandom(8).hex().encode()
