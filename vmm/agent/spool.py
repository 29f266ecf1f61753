"""Output of commands that does not fit into memory: files without names on the sandbox's disk.

They lie outside the sandbox's root and no directory lists them, so that no program of the sandbox can name one. They
are part of the disk, hence of every snapshot and fork, and the file system frees them with the agent.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

MIB = 1024 * 1024
MOST = 256 * MIB
TOTAL = 1024 * MIB
_CHECK = 4 * MIB
_FREE_SHARE = 16
"""The part of the disk that output leaves free: one in so many."""


class Spools:
    """Makes spools, and limits what they hold together.

    Args:
        directory: A descriptor of a directory on the disk, which is never closed.
        most: Bytes of one spool.
        total: Bytes of all.

    Attributes:
        used: Bytes of all spools.
        owners: Each frees finished outputs, the oldest first, until there is room again.
    """

    def __init__(self, directory: int, *, most: int = MOST, total: int = TOTAL) -> None:
        self.most = most
        self.total = total
        self.used = 0
        self.owners: list[Callable[[], None]] = []
        self._directory = directory
        self._lock = _thread.allocate_lock()

    def open(self) -> Spool | None:
        """Return a new spool; None if the disk does not take one."""
        try:
            return Spool(self, os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=self._directory))
        except OSError:
            return None

    def roomy(self) -> bool:
        """Return whether a whole spool still fits beside the others, and on the disk."""
        return self.total - self.used >= self.most and has_room(self._directory)

    def make_room(self) -> None:
        """Free finished outputs if a whole spool would not fit; what runs keeps its own."""
        for spare in self.owners:
            if self.roomy():
                return
            spare()

    def take(self, count: int) -> bool:
        """Count bytes that a spool is about to write; False if they would be too many."""
        with self._lock:
            if self.used + count > self.total:
                return False
            self.used += count
            return True

    def give_back(self, count: int) -> None:
        """Undo `take`."""
        with self._lock:
            self.used -= count


class Spool:
    """The first bytes of one stream. Once it has refused some, it takes no more, so there is no gap in it.

    Attributes:
        size: Bytes in it.
    """

    def __init__(self, spools: Spools, descriptor: int) -> None:
        self.size = 0
        self._spools = spools
        self._descriptor = descriptor
        self._full = False
        self._checked = -_CHECK

    def __del__(self) -> None:
        # Not earlier: whoever still reads the output of a forgotten command holds it.
        os.close(self._descriptor)
        self._spools.give_back(self.size)

    def append(self, data: bytes | bytearray) -> None:
        """Write bytes, or as many as are allowed; the disk's errors end it, too."""
        room = self._spools.most - self.size
        if len(data) > room:
            self._full, data = True, data[:room]
        if not self._takes(len(data)):
            self._full = True
            return
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
        except OSError:
            self._full = True
        self._spools.give_back(len(data) - written)
        self.size += written

    @property
    def full(self) -> bool:
        """Whether it takes no more."""
        return self._full

    def read(self, offset: int, limit: int) -> bytes:
        """Return at most `limit` bytes from `offset` on."""
        try:
            return os.pread(self._descriptor, max(min(limit, self.size - offset), 0), offset)
        except OSError:
            return b""

    def _takes(self, count: int) -> bool:
        if self.size >= self._checked + _CHECK:
            self._checked = self.size
            if not has_room(self._descriptor):
                return False
        return self._spools.take(count)


def has_room(descriptor: int) -> bool:
    """Return whether the disk of an open file has more free than what output must leave."""
    try:
        disk = os.fstatvfs(descriptor)
    except OSError:
        return False
    return disk.f_bavail >= disk.f_blocks // _FREE_SHARE
