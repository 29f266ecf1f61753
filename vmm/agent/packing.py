"""Packing a directory as one tar stream. Entries that cannot be read are skipped and reported; they do not end it.

The walk opens directories by descriptor and follows no symbolic link, except if the packed path itself is one.
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
"""Maximum bytes of one piece of the stream."""
DEEPEST = 400
"""Maximum nesting of directories; each level takes a descriptor."""

_KEEPALIVE_S = 1.0
_KERNEL_FILE_SYSTEMS = frozenset((b"/proc", b"/sys"))
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class _Level:
    """A directory on the path of the walk."""

    def __init__(self, descriptor: int, prefix: bytes) -> None:
        self.descriptor = descriptor
        self.prefix = prefix
        self.names = _names(descriptor)


class Packer:
    """Packs one directory.

    Args:
        path: Absolute; a link is followed.

    Attributes:
        tally: What was packed and what was skipped; the archive ends with the skipped entries, see COMMENT.
        status: The stat result of the directory.

    Raises:
        OSError: The directory does not exist or cannot be read.
    """

    def __init__(self, path: bytes) -> None:
        self.tally = Tally()
        self._path = path
        self._links: dict[tuple[int, int], bytes] = {}
        self._levels: list[_Level] = []
        self._root = os.open(path, (_OPEN_FLAGS & ~os.O_NOFOLLOW) | os.O_DIRECTORY)
        self.status = os.fstat(self._root)

    def pieces(self) -> Iterator[bytes]:
        """Yield the stream in pieces, at least one a second; an empty one is a keepalive."""
        buffer = bytearray()
        last = time.monotonic()
        try:
            for part in self._parts():
                now = time.monotonic()
                if len(buffer) + len(part) > PIECE or now > last + _KEEPALIVE_S:
                    yield bytes(buffer)
                    buffer.clear()
                    last = now
                buffer += part
            yield bytes(buffer)
        finally:
            self.close()

    def close(self) -> None:
        """Close all descriptors."""
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
            path = level.prefix + name
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
            self.tally.skip(level.prefix, os.strerror(error.errno or 0))
            return None

    def _enter(self, descriptor: int, prefix: bytes) -> None:
        self._levels.append(_Level(descriptor, prefix))

    def _entry(self, level: _Level, name: bytes, path: bytes) -> Iterator[bytes]:
        status = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            yield tar.pack(member_of(path + b"/", status, tar.DIRECTORY))
            self._descend(level, name, path)
        elif kind == stat.S_IFREG:
            yield from self._file(level, name, path, status)
        elif kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=level.descriptor)
            yield tar.pack(member_of(path, status, tar.SYMBOLIC, link=link))
            self.tally.files += 1
        elif kind == stat.S_IFIFO:
            yield tar.pack(member_of(path, status, tar.FIFO))
            self.tally.files += 1
        else:
            self.tally.skip(path, _KINDS.get(kind, "an unknown file type"))
            yield b""

    def _descend(self, level: _Level, name: bytes, path: bytes) -> None:
        if self._path.rstrip(b"/") + b"/" + path in _KERNEL_FILE_SYSTEMS:
            self.tally.skip(path, "a kernel file system")
        elif len(self._levels) >= DEEPEST:
            self.tally.skip(path, f"nested more than {DEEPEST} directories deep")
        else:
            self._enter(os.open(name, _OPEN_FLAGS | os.O_DIRECTORY, dir_fd=level.descriptor), path + b"/")

    def _file(self, level: _Level, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        inode = (status.st_dev, status.st_ino)
        first = self._links.get(inode) if status.st_nlink > 1 else None
        if first is not None:
            yield tar.pack(member_of(path, status, tar.HARD, link=first))
            self.tally.files += 1
            return
        descriptor = os.open(name, _OPEN_FLAGS, dir_fd=level.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self.tally.skip(path, "it is no longer a regular file")
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
