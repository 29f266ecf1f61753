"""Copying and deleting whole trees, without ever following a link or leaving the file system by a mount."""

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
        RefusalError: The target is a directory, or lies in the source; or the source holds what cannot be copied.
    """
    status = os.lstat(source)
    there = status_of(target)
    if there is not None and (stat.S_ISDIR(there.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise RefusalError(REFUSED, f"{shown(target)}: exists already")
    try:
        if not stat.S_ISDIR(status.st_mode):
            _copy_one(source, target, status)
            return
        inside = os.path.realpath(parent_of(target)) + b"/"
        if inside.startswith(os.path.realpath(source) + b"/"):
            raise RefusalError(REFUSED, f"{shown(target)}: lies in {shown(source)} itself")
        try:
            _copy_tree(source, target)
        except BaseException:
            with contextlib.suppress(OSError, RefusalError):  # Why the copy failed matters more.
                remove_tree(target)
            raise
    except OSError as error:
        raise from_os_error(error, _path_of(error, target)) from error


def remove_tree(path: bytes) -> None:
    """Delete a file, a link or a directory with all that is in it.

    Raises:
        RefusalError: There is another file system mounted in it; nothing of that is touched.
        OSError: A system call failed.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(path)
        return
    if os.lstat(parent_of(path)).st_dev != status.st_dev and os.path.ismount(path):
        raise RefusalError(REFUSED, f"{shown(path)}: a file system is mounted there")
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
                    raise RefusalError(REFUSED, f"{shown(entry.path)}: a file system is mounted there")
                else:
                    pending.append(entry.path)
    for directory in reversed(emptied):
        os.rmdir(directory)


def _copy_tree(source: bytes, target: bytes) -> None:
    pending = [(source, target)]
    made: list[tuple[bytes, os.stat_result]] = []
    while pending:
        below, above = pending.pop()
        made.append((above, os.lstat(below)))
        os.mkdir(above)
        with os.scandir(below) as entries:
            for entry in entries:
                copy = above + b"/" + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, copy))
                else:
                    _copy_one(entry.path, copy, entry.stat(follow_symlinks=False))
    for path, status in reversed(made):
        _dress(path, status)


def _copy_one(source: bytes, target: bytes, status: os.stat_result) -> None:
    draft = temporary(target)
    try:
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source), draft)
        elif stat.S_ISREG(status.st_mode):
            _copy_bytes(source, draft)
        else:  # A FIFO, a socket or a device: a name for something that is elsewhere.
            os.mknod(draft, status.st_mode, status.st_rdev)
        _dress(draft, status)
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
            if parts is None:  # To its end, wherever that is in truth.
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


def _dress(path: bytes, status: os.stat_result) -> None:
    """Give a copy its original's owner, mode and times."""
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _path_of(error: OSError, otherwise: bytes) -> bytes:
    name: object = error.filename
    return name if isinstance(name, bytes) else otherwise
