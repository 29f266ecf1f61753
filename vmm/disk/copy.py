"""Copies of sparse files: a sandbox's disk starts as a copy of its template's, as a reflink where possible."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import anyio

from ..errors import HostExhausted
from .sparse import allocate, data_runs, hole_runs, punch

_FICLONE = 0x40049409  # linux/fs.h: share all extents of one file with another
_STEP = 16 * 1024 * 1024
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_CANNOT = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


async def copy_sparse(source: Path, target: Path, *, reserved: bool = False) -> None:
    """Copy a file without its holes, as a reflink where the file system supports it.

    Args:
        source: What to copy.
        target: Created if it does not exist; if it does, it must be empty.
        reserved: Whether to reserve disk space for the copy's holes too, as `reserve` does.

    Raises:
        FileExistsError: The target is not empty.
        HostExhausted: The host's disk is full; nothing is left of the target.
    """
    await anyio.to_thread.run_sync(_copy, source, target, reserved)


async def reserve(path: Path) -> None:
    """Reserve disk space for all of a file, including its holes.

    A machine whose memory is a sparse file dies when it touches a new page of it on a full disk.

    Raises:
        HostExhausted: There is not enough space.
    """
    await anyio.to_thread.run_sync(_reserve, path)


async def release(path: Path) -> None:
    """Give back the space that was reserved for the holes of a file; a no-op if there is no such file."""
    await anyio.to_thread.run_sync(_release, path)


def sync_directory(directory: Path) -> None:
    """Sync the names in a directory to the disk. Blocks: call it in a thread."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path, reserved: bool) -> None:
    read = os.open(source, os.O_RDONLY)
    try:
        write = _open_empty(target)
        try:
            shared = _share(read, write)
            if not shared:
                os.ftruncate(write, os.fstat(read).st_size)
            if reserved:
                # Before the data: a file system allocates faster when it knows the whole size.
                _allocate(write)
            if not shared:
                copy_data(read, write)
        except OSError as error:
            target.unlink()
            if error.errno in _NO_SPACE:
                raise HostExhausted(
                    f"The host's disk is full: no space for {target.name}", hint="Free space or delete sandboxes"
                ) from error
            raise
        finally:
            os.close(write)
    finally:
        os.close(read)


def _open_empty(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.fstat(descriptor).st_size:
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return descriptor


def _share(read: int, write: int) -> bool:
    try:
        fcntl.ioctl(write, _FICLONE, read)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def copy_data(read: int, write: int) -> None:
    """Copy one open file to another of the same size without its holes, where extents cannot be shared."""
    for start, end in data_runs(read):
        position = start
        while position < end:
            position += _copy_range(read, write, min(end - position, _STEP), position)


def _copy_range(read: int, write: int, count: int, position: int) -> int:
    try:
        return os.copy_file_range(read, write, count, position, position)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return os.pwrite(write, os.pread(read, count, position), position)


def _reserve(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        _allocate(descriptor)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise HostExhausted(
                f"The host's disk is full: no space for {os.fstat(descriptor).st_size >> 20} MiB of memory",
                hint="Free space or delete sandboxes",
            ) from error
        raise
    finally:
        os.close(descriptor)


def _allocate(descriptor: int) -> None:
    try:
        allocate(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def _release(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        for start, end in hole_runs(descriptor):
            punch(descriptor, start, end)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)
