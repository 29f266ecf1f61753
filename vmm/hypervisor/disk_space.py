"""Disk space: recognises failures for lack of it, checks it beforehand, and frees zeros in files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..disk.sparse import data_runs, punch
from ..errors import HostExhausted, Unavailable

_HINT = "Free space or delete sandboxes"
_SIGNS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_NEARLY_FULL = 1024 * 1024
# Smaller holes save little and cost one extent each.
_GRAIN = 16 * 1024
_STEP = 1024 * 1024
_NO_HOLES = {errno.EOPNOTSUPP, errno.ENOSYS}


def raise_if_full(error: Unavailable, directory: Path) -> None:
    """Replace an error of a hypervisor if its cause is that the disk below a directory is full.

    Raises:
        HostExhausted: The program's error says so, or no disk space is left.
    """
    free = os.statvfs(directory)
    if any(sign in error.message for sign in _SIGNS) or free.f_bavail * free.f_frsize < _NEARLY_FULL:
        raise HostExhausted("The host's disk is full: no space for the machine's memory", hint=_HINT) from error


def require(directory: Path, size: int) -> None:
    """Check that the disk has enough free space.

    Args:
        directory: A directory on that disk.
        size: Bytes.

    Raises:
        HostExhausted: It has less free space.
    """
    free = os.statvfs(directory)
    if free.f_bavail * free.f_frsize < size:
        raise HostExhausted(
            f"The host's disk has no space for {size >> 20} MiB more of the machine's memory", hint=_HINT
        )


def dig_holes(path: Path) -> None:
    """Replace zeros in a file by holes. A no-op if the file system does not support holes."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        for start, end in data_runs(descriptor):
            _dig(descriptor, start - start % _GRAIN, end)
    except OSError as error:
        if error.errno not in _NO_HOLES:
            raise
    finally:
        os.close(descriptor)


def _dig(descriptor: int, start: int, end: int) -> None:
    for position in range(start, end, _STEP):
        data = os.pread(descriptor, min(_STEP, end - position), position)
        for offset, length in _zeros(data):
            punch(descriptor, position + offset, position + offset + length)


def _zeros(data: bytes) -> list[tuple[int, int]]:
    """Find runs of whole grains of zeros: where each begins, and how long it is."""
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


_ZEROS = bytes(_STEP)
_ZERO_GRAIN = bytes(_GRAIN)
