"""Whether a failure was for want of room on the host's disk, and files that take no more room than they must."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from ..errors import HostExhausted, Unavailable

_HINT = "Free space or delete sandboxes"
_SIGNS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_NEARLY_FULL = 1024 * 1024
# Smaller holes save little, and cost an extent each.
_GRAIN = 16 * 1024
_STEP = 1024 * 1024
_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of linux/falloc.h


def raise_if_full(error: Unavailable, directory: Path) -> None:
    """Turn an error of a hypervisor into the right one if the disk below a directory is full.

    Raises:
        HostExhausted: The program said so, or there is no room left.
    """
    free = os.statvfs(directory)
    if any(sign in error.message for sign in _SIGNS) or free.f_bavail * free.f_frsize < _NEARLY_FULL:
        raise HostExhausted("The host's disk is full: no room for the machine's memory", hint=_HINT) from error


def require(directory: Path, size: int) -> None:
    """Refuse to begin what cannot fit.

    Args:
        directory: Where it goes.
        size: Bytes.

    Raises:
        HostExhausted: There is less room than that.
    """
    free = os.statvfs(directory)
    if free.f_bavail * free.f_frsize < size:
        raise HostExhausted(
            f"The host's disk has no room for {size >> 20} MiB of the machine's memory more", hint=_HINT
        )


def dig_holes(path: Path) -> None:
    """Give back the room that zeros take in a file. A no-op where the file system has no holes."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(descriptor).st_size
        offset = 0
        while offset < size:
            try:
                start = os.lseek(descriptor, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            offset = os.lseek(descriptor, start, os.SEEK_HOLE)
            if not _dig(descriptor, start - start % _GRAIN, offset):
                return
    finally:
        os.close(descriptor)


def _dig(descriptor: int, start: int, end: int) -> bool:
    for position in range(start, end, _STEP):
        data = os.pread(descriptor, min(_STEP, end - position), position)
        for offset, length in _zeros(data):
            if not _punch(descriptor, position + offset, length):
                return False
    return True


def _zeros(data: bytes) -> list[tuple[int, int]]:
    """Runs of whole grains of zeros: where each begins, and how long it is."""
    if data == _ZEROS[: len(data)]:
        return [(0, len(data))]
    runs: list[tuple[int, int]] = []
    begin = -1
    for offset in range(0, len(data), _GRAIN):
        if data.startswith(_ZERO_GRAIN, offset):
            begin = offset if begin < 0 else begin
        elif begin >= 0:
            runs.append((begin, offset - begin))
            begin = -1
    if begin >= 0:
        runs.append((begin, len(data) - begin))
    return runs


def _punch(descriptor: int, offset: int, length: int) -> bool:
    if _LIBC.fallocate(descriptor, _PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(length)) == 0:
        return True
    failed = ctypes.get_errno()
    if failed in {errno.EOPNOTSUPP, errno.ENOSYS}:
        return False
    raise OSError(failed, os.strerror(failed))


_ZEROS = bytes(_STEP)
_ZERO_GRAIN = bytes(_GRAIN)
_LIBC = ctypes.CDLL(None, use_errno=True)
