"""Copying and deleting directory trees, without following symbolic links; deleting never crosses a mount point."""

from __future__ import annotations

import contextlib
import os
import stat

from .entries import open_regular, parent_of, status_of, temporary, write_all
from .holes import sparse_map
from .refusals import REFUSED, RefusalError, from_os_error, shown

_PIECE = 1024 * 1024


def copy_entry(source: bytes, target: bytes) -> None:
    """Copy a file, a link or a tree with modes, owners and times; a file at the target is replaced, a directory never.

    Raises:
        RefusalError: The target is a directory or inside the source, or a part of the source cannot be copied.
    """
    status = os.lstat(source)
    existing = status_of(target)
    if existing is not None and (stat.S_ISDIR(existing.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise RefusalError(REFUSED, f"{shown(target)}: already exists")
    try:
        if not stat.S_ISDIR(status.st_mode):
            _copy_one(source, target, status)
            return
        inside = os.path.realpath(parent_of(target)) + b"/"
        if inside.startswith(os.path.realpath(source) + b"/"):
            raise RefusalError(REFUSED, f"{shown(target)}: is inside {shown(source)} itself; copy to a path outside")
        try:
            _copy_tree(source, target)
        except BaseException:
            with contextlib.suppress(OSError, RefusalError):  # Why the copy failed matters more.
                remove_tree(target)
            raise
    except OSError as error:
        raise from_os_error(error, _path_of(error, target)) from error


def remove_tree(path: bytes) -> None:
    """Delete a file, a link or a directory with its contents.

    Raises:
        RefusalError: Another file system is mounted in it; that one stays untouched.
        OSError: A system call failed.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(path)
        return
    if os.lstat(parent_of(path)).st_dev != status.st_dev and os.path.ismount(path):
        raise RefusalError(REFUSED, f"{shown(path)}: a file system is mounted here; unmount it first")
    pending = [path]
    emptied: list[bytes] = []
    while pending:
        directory = pending.pop()
        emptied.append(directory)
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                elif entry.stat(follow_symlinks=False).st_dev != status.st_dev:
                    raise RefusalError(REFUSED, f"{shown(entry.path)}: a file system is mounted here; unmount it first")
                else:
                    pending.append(entry.path)
    for directory in reversed(emptied):
        os.rmdir(directory)


def _copy_tree(source: bytes, target: bytes) -> None:
    pending = [(source, target)]
    made: list[tuple[bytes, os.stat_result]] = []
    while pending:
        original, copy = pending.pop()
        made.append((copy, os.lstat(original)))
        os.mkdir(copy)
        with os.scandir(original) as entries:
            for entry in entries:
                entry_copy = copy + b"/" + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, entry_copy))
                else:
                    _copy_one(entry.path, entry_copy, entry.stat(follow_symlinks=False))
    for path, status in reversed(made):
        _copy_attributes(path, status)


def _copy_one(source: bytes, target: bytes, status: os.stat_result) -> None:
    draft = temporary(target)
    try:
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source), draft)
        elif stat.S_ISREG(status.st_mode):
            _copy_bytes(source, draft)
        else:  # A FIFO, a socket or a device has no content of its own.
            os.mknod(draft, status.st_mode, status.st_rdev)
        _copy_attributes(draft, status)
        os.rename(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):  # Why the copy failed matters more.
            os.unlink(draft)
        raise


def _copy_bytes(source: bytes, draft: bytes) -> None:
    writer = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        reader, status = open_regular(source)
        try:
            buffer = memoryview(bytearray(_PIECE))
            parts = sparse_map(reader, status)
            if parts is None:  # Read to the real end: the kernel's size may be wrong.
                while count := os.readv(reader, [buffer]):
                    write_all(writer, buffer[:count])
                return
            for start, length in parts:
                at, end = os.lseek(writer, start, os.SEEK_SET), start + length
                while at < end and (count := os.preadv(reader, [buffer[: end - at]], at)):
                    write_all(writer, buffer[:count])
                    at += count
            os.ftruncate(writer, status.st_size)
        finally:
            os.close(reader)
    finally:
        os.close(writer)


def _copy_attributes(path: bytes, status: os.stat_result) -> None:
    """Set a copy's owner, mode and times to those of its original."""
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _path_of(error: OSError, default: bytes) -> bytes:
    name: object = error.filename
    return name if isinstance(name, bytes) else default
