"""The kernel's inotify, by libc: Python's standard library has no module for it. Source: inotify(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple

from .refusals import GUEST, RefusalError

MODIFY, ATTRIB = 0x2, 0x4
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
UNMOUNT, QUEUE_OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
IS_DIRECTORY = 0x40000000

_ONLY_DIRECTORIES, _NO_FOLLOW, _EXCLUDE_UNLINKED = 0x01000000, 0x02000000, 0x04000000
_MASK = (
    MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
    | _ONLY_DIRECTORIES | _NO_FOLLOW | _EXCLUDE_UNLINKED
)  # fmt: skip
_HEADER = struct.Struct("iIII")
_READ = 64 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)  # CDLL releases the GIL: a path may lead to a file system that hangs.
_LIMITS = "/proc/sys/fs/inotify/"


class Event(NamedTuple):
    """What happened in a watched directory.

    Attributes:
        watch: The directory's number, or -1 if the queue overflowed.
        mask: Flags of this module.
        cookie: The same number in both events of a rename, else 0.
        name: The entry; empty if it is the directory itself.
    """

    watch: int
    mask: int
    cookie: int
    name: bytes


class WatchLimitError(RefusalError):
    """The kernel watches no more directories for this sandbox."""


class Inotify:
    """One queue of events.

    Raises:
        WatchLimitError: The sandbox has too many of them.
    """

    def __init__(self) -> None:
        descriptor = _LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if descriptor < 0:
            raise _failure("max_user_instances", "watchers")
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor for poll."""
        return self._descriptor

    def add(self, path: bytes) -> int:
        """Watch a directory, and return its number: the same one for the same directory, whatever its path.

        Raises:
            WatchLimitError: The sandbox's limit is reached.
            OSError: It is not there, or not a directory, or cannot be reached.
        """
        number = _LIBC.inotify_add_watch(self._descriptor, path, _MASK)
        if number < 0:
            raise _failure("max_user_watches", "watched directories and files")
        return number

    def remove(self, number: int) -> None:
        """Watch a directory no longer; a no-op if the kernel has stopped by itself."""
        _LIBC.inotify_rm_watch(self._descriptor, number)

    def read(self) -> list[Event]:
        """Return the next events, some hundreds at most; none if nothing has happened."""
        try:
            data = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return []
        events: list[Event] = []
        at = 0
        while at < len(data):
            number, mask, cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            events.append(Event(number, mask, cookie, data[at : at + length].rstrip(b"\0")))
            at += length
        return events

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)


def _failure(limit: str, what: str) -> OSError | WatchLimitError:
    number = ctypes.get_errno()
    if number not in {errno.ENOSPC, errno.EMFILE}:
        return OSError(number, os.strerror(number))
    return WatchLimitError(
        GUEST,
        f"the sandbox's limit of {what} is reached (fs.inotify.{limit}{_value(limit)}): "
        "watch a smaller directory, or raise the limit in the sandbox with sysctl",
    )


def _value(limit: str) -> str:
    try:
        descriptor = os.open(_LIMITS + limit, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return f" = {os.read(descriptor, 32).decode().strip()}"
    finally:
        os.close(descriptor)
