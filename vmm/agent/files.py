"""The host's file calls. The agent's root is the sandbox's, so the kernel resolves all paths and links inside it."""

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
from .listing import stream_listing
from .reading import Source
from .refusals import MISSING, REFUSED, RefusalError, from_os_error, invalid, shown

_MAX_LIST = 20_000
_PAGE = 4096
_COALESCE_LIMIT = 64 * 1024
"""Bytes of small pieces that are collected and sent in one write."""
_WRITE_SIZE = 1024 * 1024
"""Bytes per write to a file that the kernel generates, such as one in /proc, which takes a value only in one write."""
_NO_DRAFT = frozenset((errno.ENOENT, errno.EACCES))
_NO_SYNC = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))


class Files:
    """Lists, describes, reads, writes, creates, deletes, moves and copies files and directories."""

    def __init__(self) -> None:
        self._calls = 0

    def list(self, channel: Channel, arguments: Arguments) -> None:
        """Send a directory's entries in the order of their names; with `stream` in pieces, see `stream_listing`."""
        path = arguments.path()
        if arguments.flag("stream"):
            stream_listing(channel, path, arguments.integer("limit", least=1))
            return
        limit = min(arguments.integer("limit", 1000, least=1), _MAX_LIST)
        try:
            with os.scandir(path) as entries:
                # One more than requested, to learn whether there are more; memory stays bounded in a huge directory.
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
        """Send the description of one entry."""
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
            # One byte more than wanted, to detect the end in the same read. At least a page, since some files that the
            # kernel generates lose what does not fit into the first read.
            frame = memoryview(bytearray(frames.HEADER.size + min(frames.MAX_DATA, max(wanted + 1, _PAGE))))
            room = frame[frames.HEADER.size :]
            source = Source(descriptor, status.st_size, offset)
            more = False
            while not more and (count := source.fill(room)):
                if left is not None:
                    more = count > left
                    count = min(count, left)
                    left -= count
                if count + len(ready) < _COALESCE_LIMIT:
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
        """Replace a file's content, or append to it. The old content stays until the new is on the disk."""
        path = arguments.path()
        if path.endswith(b"/"):
            raise invalid(f"path must name a file, not a directory, got {shown(path)}")
        mode = arguments.optional_integer("mode")
        path = final(path)
        if arguments.flag("make_parents", default=True) and status_of(parent_of(path)) is None:
            make_parents(path)
        status = status_of(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = "is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
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
        """Create a directory; with `parents` also the missing ones above it, and one that exists is no error."""
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
        """Delete a file, a link or a directory."""
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
        """Rename an entry, also to another file system."""
        source, target = arguments.path("source"), arguments.path("target")
        status = _present(source)
        _refuse_root(source, status)
        existing = status_of(target)
        if existing is not None:
            if not arguments.flag("overwrite", default=True):
                raise RefusalError(REFUSED, f"{shown(target)}: already exists")
            if stat.S_ISDIR(existing.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise RefusalError(REFUSED, f"{shown(target)}: is a directory; give the full path of the new file")
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # Another file system, or a directory of the overlay's lower layer.
                raise _rename_refusal(error, source, target) from error
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
    """Write a draft and rename it over the file; where no draft can be created, overwrite the file in place.

    Returns:
        The number of bytes written in place, since the kernel may report a wrong size for such a file; else None.
    """
    draft = temporary(path)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        # Nobody can create files in /proc or /sys, but existing ones may be writable.
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
            if len(whole) >= _WRITE_SIZE:
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
    """Wait until the file is on the disk; a file that the kernel generates is on none."""
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
        raise RefusalError(REFUSED, f"{shown(path)}: the root directory cannot be deleted or moved")


def _rename_refusal(error: OSError, source: bytes, target: bytes) -> RefusalError:
    """Return the refusal of a rename; its source exists, so a missing file means the target's directory."""
    if isinstance(error, FileNotFoundError):
        return RefusalError(MISSING, f"{shown(parent_of(target))}: no such directory; create it first")
    refusal = from_os_error(error, target)
    return RefusalError(refusal.code, f"{shown(source)} -> {refusal.message}")
