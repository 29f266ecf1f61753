"""The host's file calls. The agent's root is the sandbox's, so the kernel resolves every path and link inside it."""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from typing import Any

from . import frames
from .arguments import Arguments
from .channel import Channel
from .copying import copy_entry, remove_tree
from .entries import describe, final, make_parents, open_regular, parent_of, status_of, temporary, write_all
from .reading import Source
from .refusals import MISSING, REFUSED, RefusalError, from_os_error, invalid, shown

_MAX_LIST = 20_000
_PAGE = 4096
_TOGETHER = 64 * 1024
"""Bytes of small pieces that are sent at once."""
_AT_ONCE = 1024 * 1024
"""Bytes that are written at once into a file that the kernel makes up: it takes a value whole, in one write."""
_NO_DRAFT = frozenset((errno.ENOENT, errno.EACCES))
_NO_SYNC = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))


class Files:
    """List, stat, read, write, make, delete, move and copy."""

    def __init__(self) -> None:
        self._calls = 0

    def list(self, channel: Channel, arguments: Arguments) -> None:
        """A directory's entries in name order."""
        path = arguments.path()
        limit = min(arguments.integer("limit", 1000, least=1), _MAX_LIST)
        try:
            with os.scandir(path) as entries:
                # One more than asked for, to know whether there are more; memory stays flat in a huge directory.
                names = heapq.nsmallest(limit + 1, (entry.name for entry in entries))
        except OSError as error:
            raise from_os_error(error, path) from error
        base = path.rstrip(b"/") + b"/"
        found: list[dict[str, Any]] = []
        for name in names[:limit]:
            status = status_of(base + name)
            if status is not None:
                found.append(describe(base + name, status))
        channel.send_result({"entries": found, "truncated": len(names) > limit})

    def stat(self, channel: Channel, arguments: Arguments) -> None:
        """One entry."""
        channel.send_result(describe(arguments.path()))

    def read(self, channel: Channel, arguments: Arguments) -> None:
        """Stream a range of a file; the result says whether the file goes on after it."""
        path = arguments.path()
        offset = arguments.integer("offset", 0)
        left = arguments.optional_integer("length")
        descriptor, status = open_regular(path)
        try:
            ready = bytearray(frames.pack_json(frames.HEAD, describe(path, status)))
            wanted = max(status.st_size - offset, 0) if left is None else left
            # One byte more finds the end in the same read. Never less than a page: of some files that the kernel makes
            # up, what does not fit at once is lost.
            frame = memoryview(bytearray(frames.HEADER.size + min(frames.MAX_DATA, max(wanted + 1, _PAGE))))
            room = frame[frames.HEADER.size :]
            source = Source(descriptor, status.st_size, offset)
            more = False
            while not more and (count := source.fill(room)):
                if left is not None:
                    more = count > left
                    count = min(count, left)
                    left -= count
                if count + len(ready) < _TOGETHER:
                    ready += frames.pack(frames.DATA, bytes(room[:count])) if count else b""
                    continue
                if ready:
                    channel.send_raw(ready)
                    ready = bytearray()
                channel.send_in_place(frames.DATA, frame[: frames.HEADER.size + count])
            channel.send_raw(ready + frames.pack_json(frames.RESULT, {"more": more}))
        except OSError as error:
            raise from_os_error(error, path) from error
        finally:
            os.close(descriptor)

    def write(self, channel: Channel, arguments: Arguments) -> None:
        """Write a file as a whole, or append to it. Until the last byte is on the disk, the old content stays."""
        path = arguments.path()
        if path.endswith(b"/"):
            raise invalid(f"path: {shown(path)} names a directory")
        mode = arguments.optional_integer("mode")
        path = final(path)
        if arguments.flag("make_parents", default=True) and status_of(parent_of(path)) is None:
            make_parents(path)
        status = status_of(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise RefusalError(REFUSED, f"{shown(path)}: {kind}")
        try:
            if arguments.flag("append"):
                _append(channel, path, mode)
                written = None
            else:
                written = _replace(channel, path, mode, status)
        except OSError as error:
            raise from_os_error(error, path) from error
        info = describe(path)
        channel.send_result(info if written is None else info | {"size": written})

    def make_directory(self, channel: Channel, arguments: Arguments) -> None:
        """Make a directory, with those above it if wanted; one that exists is fine then."""
        path = arguments.path()
        try:
            if arguments.flag("parents", default=True):
                os.makedirs(path, exist_ok=True)
            else:
                os.mkdir(path)
        except OSError as error:
            raise from_os_error(error, path) from error
        channel.send_result(describe(path))

    def delete(self, channel: Channel, arguments: Arguments) -> None:
        """Delete a file, link or directory."""
        path = arguments.path()
        status = _present(path)
        _refuse_root(path, status)
        try:
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(path)
            elif arguments.flag("recursive"):
                remove_tree(path)
            else:
                os.rmdir(path)
        except OSError as error:
            raise from_os_error(error, path) from error
        channel.send_result({})

    def move(self, channel: Channel, arguments: Arguments) -> None:
        """Rename, across file systems too."""
        source, target = arguments.path("source"), arguments.path("target")
        status = _present(source)
        _refuse_root(source, status)
        there = status_of(target)
        if there is not None:
            if not arguments.flag("overwrite", default=True):
                raise RefusalError(REFUSED, f"{shown(target)}: exists already")
            if stat.S_ISDIR(there.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise RefusalError(REFUSED, f"{shown(target)}: a directory; give the full name of the new file")
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # Another file system, or a directory of the image below
                raise _of_either(error, source, target) from error
            copy_entry(source, target)
            remove_tree(source)
        channel.send_result(describe(target))

    def copy(self, channel: Channel, arguments: Arguments) -> None:
        """Copy a file or a tree."""
        source, target = arguments.path("source"), arguments.path("target")
        _present(source)
        copy_entry(source, target)
        channel.send_result(describe(target))


def _append(channel: Channel, path: bytes, mode: int | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
    try:
        for piece in channel.body():
            write_all(descriptor, piece)
        if mode is not None:
            os.fchmod(descriptor, mode & 0o7777)
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _replace(channel: Channel, path: bytes, mode: int | None, status: os.stat_result | None) -> int | None:
    """Write a draft and put it in the file's place. Where no draft can be, the file is written as it is.

    Returns:
        How many bytes were written into a file that stayed where it was; what the kernel says of its size is no help.
    """
    draft = temporary(path)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        # Among the files that the kernel makes up there can be no others; those that are there may well be written.
        if status is None or error.errno not in _NO_DRAFT:
            raise
        return _overwrite(channel, path, mode)
    try:
        try:
            for piece in channel.body():
                write_all(descriptor, piece)
            if status is not None and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            kept = stat.S_IMODE(status.st_mode) if status is not None else 0o644
            os.fchmod(descriptor, kept if mode is None else mode & 0o7777)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):  # Why the write failed matters more.
            os.unlink(draft)
        raise
    return None


def _overwrite(channel: Channel, path: bytes, mode: int | None) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if mode is not None and mode & 0o7777 != stat.S_IMODE(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, mode & 0o7777)
        count = 0
        whole = bytearray()
        for piece in channel.body():
            whole += piece
            if len(whole) >= _AT_ONCE:
                write_all(descriptor, whole)
                count += len(whole)
                whole = bytearray()
        if whole or not count:
            write_all(descriptor, whole)
        _sync(descriptor)
        return count + len(whole)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Wait until the file is on its disk; one that the kernel makes up is on none."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _present(path: bytes) -> os.stat_result:
    status = status_of(path)
    if status is None:
        raise RefusalError(MISSING, f"{shown(path)}: no such file or directory")
    return status


def _refuse_root(path: bytes, status: os.stat_result) -> None:
    root = os.stat(b"/")
    if (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino):
        raise RefusalError(REFUSED, f"{shown(path)}: the root itself stays")


def _of_either(error: OSError, source: bytes, target: bytes) -> RefusalError:
    """The refusal of a rename whose source was there a moment ago: what is missing is the target's directory."""
    if isinstance(error, FileNotFoundError):
        return RefusalError(MISSING, f"{shown(parent_of(target))}: no such directory; make it first")
    refusal = from_os_error(error, target)
    return RefusalError(refusal.code, f"{shown(source)} -> {refusal.message}")
