"""Copies of sparse files: a sandbox's disk starts as a copy of its template's, as a reflink where that works."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import anyio

from .errors import HostExhausted

_FICLONE = 0x40049409  # linux/fs.h: share all extents of one file with another
_STEP = 16 * 1024 * 1024
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


async def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file without its holes, as a reflink where the file system has them. The target must not exist.

    Raises:
        HostExhausted: The host's disk is full; nothing is left of the target.
    """
    await anyio.to_thread.run_sync(_copy, source, target)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory reach the disk. Blocks: call it in a thread."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    read = os.open(source, os.O_RDONLY)
    try:
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if not _share(read, write):
                copy_data(read, write)
        except OSError as error:
            target.unlink()
            if error.errno in _NO_SPACE:
                raise HostExhausted(
                    f"The host's disk is full: no room for {target.name}", hint="Free space or delete sandboxes"
                ) from error
            raise
        finally:
            os.close(write)
    finally:
        os.close(read)


def _share(read: int, write: int) -> bool:
    try:
        fcntl.ioctl(write, _FICLONE, read)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def copy_data(read: int, write: int) -> None:
    """Copy one open file to another without its holes, where the file system cannot share extents."""
    size = os.fstat(read).st_size
    os.ftruncate(write, size)
    offset = 0
    while offset < size:
        try:
            start = os.lseek(read, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(read, start, os.SEEK_HOLE)
        position = start
        while position < end:
            position += _copy_range(read, write, min(end - position, _STEP), position)
        offset = end


def _copy_range(read: int, write: int, count: int, position: int) -> int:
    try:
        return os.copy_file_range(read, write, count, position, position)
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
        return os.pwrite(write, os.pread(read, count, position), position)
