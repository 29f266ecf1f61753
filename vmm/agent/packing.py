"""A directory with all that is in it as one tar stream. What cannot be read is left out and told; the rest goes on.

Directories are walked by descriptors and no link is followed but the one that the packed path itself may be.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Generator, Iterator

from . import tar
from .contents import member_of, pack_content
from .tally import COMMENT, Tally

PIECE = 256 * 1024
"""Bytes of a piece of the stream, at most."""
DEEPEST = 400
"""Directories within each other; every one takes a descriptor."""

_SILENCE = 1.0
_MADE_UP = frozenset((b"/proc", b"/sys"))
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class _Level:
    """A directory that is being walked."""

    def __init__(self, descriptor: int, before: bytes) -> None:
        self.descriptor = descriptor
        self.before = before
        self.names = _names(descriptor)


class Packer:
    """Packs one directory.

    Args:
        path: Absolute; a link is followed.

    Attributes:
        tally: What is packed, and what is left out; the archive tells that at its end, see COMMENT.
        status: The directory's.

    Raises:
        OSError: There is nothing, or it cannot be read.
    """

    def __init__(self, path: bytes) -> None:
        self.tally = Tally()
        self._path = path
        self._links: dict[tuple[int, int], bytes] = {}
        self._levels: list[_Level] = []
        self._root = os.open(path, (_LOOK & ~os.O_NOFOLLOW) | os.O_DIRECTORY)
        self.status = os.fstat(self._root)

    def pieces(self) -> Iterator[bytes]:
        """The stream. Every second something comes, if only nothing: as a sign of life."""
        buffer = bytearray()
        last = time.monotonic()
        try:
            for part in self._parts():
                now = time.monotonic()
                if len(buffer) + len(part) > PIECE or now > last + _SILENCE:
                    yield bytes(buffer)
                    buffer.clear()
                    last = now
                buffer += part
            yield bytes(buffer)
        finally:
            self.close()

    def close(self) -> None:
        """Close what is open."""
        while self._levels:
            self._leave()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _parts(self) -> Iterator[bytes]:
        root = member_of(b"./", self.status, tar.DIRECTORY)
        yield tar.pack(root)
        self._enter(os.dup(self._root), b"")
        while self._levels:
            level = self._levels[-1]
            name = self._next(level)
            if name is None:
                self._leave()
                continue
            path = level.before + name
            try:
                yield from self._entry(level, name, path)
            except OSError as error:
                self.tally.skip(path, os.strerror(error.errno or 0))
                yield b""
        if self.tally.skipped:
            root.records[COMMENT] = self.tally.comment()
            yield tar.pack(root)
        yield tar.END

    def _leave(self) -> None:
        level = self._levels.pop()
        level.names.close()
        os.close(level.descriptor)

    def _next(self, level: _Level) -> bytes | None:
        try:
            return next(level.names, None)
        except OSError as error:
            self.tally.skip(level.before, os.strerror(error.errno or 0))
            return None

    def _enter(self, descriptor: int, before: bytes) -> None:
        self._levels.append(_Level(descriptor, before))

    def _entry(self, level: _Level, name: bytes, path: bytes) -> Iterator[bytes]:
        status = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            yield tar.pack(member_of(path + b"/", status, tar.DIRECTORY))
            self._descend(level, name, path)
        elif kind == stat.S_IFREG:
            yield from self._linked_or_file(level, name, path, status)
        elif kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=level.descriptor)
            yield tar.pack(member_of(path, status, tar.SYMBOLIC, link=link))
            self.tally.files += 1
        elif kind == stat.S_IFIFO:
            yield tar.pack(member_of(path, status, tar.FIFO))
            self.tally.files += 1
        else:
            self.tally.skip(path, _KINDS.get(kind, "of an unknown kind"))
            yield b""

    def _descend(self, level: _Level, name: bytes, path: bytes) -> None:
        if self._path.rstrip(b"/") + b"/" + path in _MADE_UP:
            self.tally.skip(path, "the kernel makes it up")
        elif len(self._levels) >= DEEPEST:
            self.tally.skip(path, f"more than {DEEPEST} directories within each other")
        else:
            self._enter(os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=level.descriptor), path + b"/")

    def _linked_or_file(self, level: _Level, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        inode = (status.st_dev, status.st_ino)
        first = self._links.get(inode) if status.st_nlink > 1 else None
        if first is not None:
            yield tar.pack(member_of(path, status, tar.HARD, link=first))
            self.tally.files += 1
            return
        descriptor = os.open(name, _LOOK, dir_fd=level.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self.tally.skip(path, "it became something else")
                return
            yield from pack_content(descriptor, path, status, self.tally)
            if status.st_nlink > 1:
                self._links[inode] = path
        finally:
            os.close(descriptor)


def _names(descriptor: int) -> Generator[bytes]:
    with os.scandir(descriptor) as entries:
        for entry in entries:
            yield os.fsencode(entry.name)
