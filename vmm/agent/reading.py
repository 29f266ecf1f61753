"""Reading a file to its real end: for files that the kernel generates (/proc, /sys), st_size is wrong."""

from __future__ import annotations

import errno
import os

_MAX_SKIPPED = 16 * 1024 * 1024
"""Maximum offset into a file that cannot seek: the bytes before it are read and dropped. Beyond it, nothing is read."""


class Source:
    """An open file from an offset on.

    Args:
        descriptor: Open for reading, at its beginning.
        size: Its st_size.
        offset: Where to begin, in bytes.
    """

    def __init__(self, descriptor: int, size: int, offset: int) -> None:
        self._descriptor = descriptor
        self._generated = size == 0
        self._offset = offset
        self._started = False
        self._ended = False

    def fill(self, room: memoryview) -> int:
        """Read the next bytes into `room` and return their number, 0 at the end of the file.

        Raises:
            OSError: The kernel refused to seek or read.
        """
        if self._ended:
            return 0
        if self._started or not self._offset:
            return self._read(room)
        self._started = True
        try:
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
        except OSError as error:
            if error.errno == errno.EINVAL:  # Beyond the file system's maximum file size.
                self._ended = True
                return 0
            if error.errno != errno.ESPIPE:
                raise
            return self._skip(room)
        count = self._read(room)
        if not count and self._generated:
            # Many files that the kernel generates return nothing at any offset but 0.
            self._ended = False
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            return self._skip(room)
        return count

    def _read(self, room: memoryview) -> int:
        count = os.readv(self._descriptor, [room])
        self._ended = not count
        return count

    def _skip(self, room: memoryview) -> int:
        """Read and drop the bytes before the offset."""
        before = self._offset
        while before <= _MAX_SKIPPED:
            count = self._read(room)
            if not count:
                return 0
            if count > before:
                room[: count - before] = room[before:count]
                return count - before
            before -= count
        self._ended = True
        return 0
