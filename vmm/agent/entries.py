"""Looking at files: what an entry is, and the small system-call helpers that the file calls share.

Paths are bytes all along, as the system has them: an image may hold names that are no text, and a bytes path costs
nothing.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from .refusals import FULL, REFUSED, RefusalError, from_os_error, shown


def describe(path: bytes, status: os.stat_result | None = None) -> dict[str, Any]:
    """The entry at `path` as the host has it, the link itself if it is one.

    Raises:
        RefusalError: There is none.
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
    """What sort of entry has this mode."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def text(raw: bytes) -> str:
    """A name as text; bytes that are no UTF-8 are shown escaped, and such a name cannot be asked for again."""
    return raw.decode("utf-8", "backslashreplace")


def status_of(path: bytes) -> os.stat_result | None:
    """The entry itself, or None where there is none."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, path) from error


def parent_of(path: bytes) -> bytes:
    """The directory that holds `path`."""
    return path.rstrip(b"/").rpartition(b"/")[0] or b"/"


def final(path: bytes) -> bytes:
    """Where `path` leads in the end if it is a symbolic link, else `path` itself."""
    status = status_of(path)
    return os.path.realpath(path) if status is not None and stat.S_ISLNK(status.st_mode) else path


def make_parents(path: bytes) -> None:
    """Make the directories above `path`."""
    try:
        os.makedirs(parent_of(path), exist_ok=True)
    except OSError as error:
        raise from_os_error(error, parent_of(path)) from error


def open_regular(path: bytes) -> tuple[int, os.stat_result]:
    """A descriptor for reading a regular file; nothing else is opened, since that could block or never end.

    Raises:
        RefusalError: Missing, or not a regular file.
    """
    try:
        # Looked at first: to open a device may already do something, as a watchdog's begins to count down.
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
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
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
            raise RefusalError(FULL, "nothing more can be written")
        view = view[written:]


def temporary(path: bytes) -> bytes:
    """A fresh name next to `path`."""
    return parent_of(path).rstrip(b"/") + b"/.casemate-" + os.urandom(8).hex().encode()
