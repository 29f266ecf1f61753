"""Reading a file to where it ends in truth: the size that the kernel states is wrong for files that it makes up."""

from __future__ import annotations

import errno
import os

_MOST_SKIPPED = 16 * 1024 * 1024
"""Bytes that are read over where a file can only be read from its beginning; further in there is nothing."""


class Source:
    """An open file from an offset on.

    Args:
        descriptor: Open for reading, at its beginning.
        size: What the kernel says of its length.
        offset: Where to begin.
    """

    def __init__(self, descriptor: int, size: int, offset: int) -> None:
        self._descriptor = descriptor
        self._made_up = size == 0
        self._offset = offset
        self._begun = False
        self._over = False

    def fill(self, room: memoryview) -> int:
        """Read what comes next into `room`; how many bytes, 0 at the end.

        Raises:
            OSError: What the kernel said.
        """
        if self._over:
            return 0
        if self._begun or not self._offset:
            return self._more(room)
        self._begun = True
        try:
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
        except OSError as error:
            if error.errno == errno.EINVAL:  # Beyond what any file of its file system can have.
                self._over = True
                return 0
            if error.errno != errno.ESPIPE:
                raise
            return self._skip(room)
        count = self._more(room)
        if not count and self._made_up:
            # Much of what the kernel makes up has an end wherever one begins but at the beginning.
            self._over = False
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            return self._skip(room)
        return count

    def _more(self, room: memoryview) -> int:
        count = os.readv(self._descriptor, [room])
        self._over = not count
        return count

    def _skip(self, room: memoryview) -> int:
        """Read over what lies before the offset."""
        before = self._offset
        while before <= _MOST_SKIPPED:
            count = self._more(room)
            if not count:
                return 0
            if count > before:
                room[: count - before] = room[before:count]
                return count - before
            before -= count
        self._over = True
        return 0
