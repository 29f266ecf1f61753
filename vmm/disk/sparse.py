"""Where a sparse file has data and holes, and how to reserve and free space for holes. Everything blocks."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of linux/falloc.h
_LIBC = ctypes.CDLL(None, use_errno=True)


def data_runs(descriptor: int) -> Iterator[tuple[int, int]]:
    """Find where each run of data begins and ends, in bytes from the start of the file."""
    size = os.fstat(descriptor).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def hole_runs(descriptor: int) -> Iterator[tuple[int, int]]:
    """Find where each hole begins and ends."""
    after = 0
    for start, end in data_runs(descriptor):
        if start > after:
            yield after, start
        after = end
    size = os.fstat(descriptor).st_size
    if size > after:
        yield after, size


def allocate(descriptor: int) -> None:
    """Reserve disk space for the whole file, without changing its content.

    Raises:
        OSError: There is not enough, or the file system does not support it.
    """
    _fallocate(descriptor, 0, 0, os.fstat(descriptor).st_size)


def punch(descriptor: int, start: int, end: int) -> None:
    """Make a hole.

    Raises:
        OSError: The file system does not support it.
    """
    _fallocate(descriptor, _PUNCH_HOLE, start, end - start)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if _LIBC.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
