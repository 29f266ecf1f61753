"""Packing a directory as one stream. Entries that cannot be read are skipped and reported; they do not end it.

The walk opens directories by descriptor and follows no symbolic link, except if the packed path itself is one.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from .refusals import REFUSED, RefusalError, shown
from .tally import Tally
from .tar_packing import TarForm

PIECE = 256 * 1024
"""Maximum bytes of one piece of the stream."""
DEEPEST = 400
"""Maximum nesting of directories; each level takes a descriptor."""

_KEEPALIVE_S = 1.0
_KERNEL_FILE_SYSTEMS = frozenset((b"/proc", b"/sys"))
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Form(Protocol):
    """The format of an archive: encodes entries in the order of the walk. A directory's path ends with a slash."""

    def directory(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a directory."""
        ...

    def link(self, path: bytes, status: os.stat_result, target: bytes) -> bytes:
        """Encode a symbolic link."""
        ...

    def fifo(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a FIFO."""
        ...

    def again(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a further name of a file that was packed already; empty if it has to be packed."""
        ...

    def file(self, descriptor: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        """Encode a regular file, open at its beginning."""
        ...

    def end(self) -> Iterator[bytes]:
        """Encode the end of the archive."""
        ...


class _Level:
    """A directory on the path of the walk."""

    def __init__(self, descriptor: int, prefix: bytes) -> None:
        self.descriptor = descriptor
        self.prefix = prefix
        self.names = _names(descriptor)


class Packer:
    """Packs one directory, or one file.

    Args:
        path: Absolute; a link is followed.
        form: Makes the archive's format for a tally; None for tar that ends with a list of what was skipped.
        name: The name in the archive of what is packed; without one, the archive has the content of a directory.
        without: Device and inode of a file that is left out: the archive itself.

    Attributes:
        tally: What was packed and what was skipped.
        status: The stat result of what is packed.

    Raises:
        OSError: It does not exist, cannot be read, or is not a directory and has no name.
        RefusalError: It is neither a directory nor a regular file.
    """

    def __init__(
        self,
        path: bytes,
        form: Callable[[Tally], Form] | None = None,
        *,
        name: bytes = b"",
        without: tuple[int, int] | None = None,
    ) -> None:
        self.tally = Tally()
        self._form: Form = TarForm(self.tally, commented=True) if form is None else form(self.tally)
        self._path = path
        self._name = name
        self._prefix = name + b"/" if name else b""
        self._without = without
        self._levels: list[_Level] = []
        self._root = _open_any(path) if name else os.open(path, (_OPEN_FLAGS & ~os.O_NOFOLLOW) | os.O_DIRECTORY)
        self.status = os.fstat(self._root)

    def pieces(self) -> Iterator[bytes]:
        """Yield the stream in pieces, at least one a second; an empty one is a keepalive.

        Raises:
            OSError: The single file that is packed cannot be read.
        """
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
        if stat.S_ISDIR(self.status.st_mode):
            yield from self._tree()
        else:
            yield from self._form.file(self._root, self._name, self.status)
        yield from self._form.end()

    def _tree(self) -> Iterator[bytes]:
        yield self._form.directory(self._prefix or b"./", self.status)
        self._enter(os.dup(self._root), self._prefix)
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
            yield self._form.directory(path + b"/", status)
            self._descend(level, name, path)
        elif kind == stat.S_IFREG:
            yield from self._file(level, name, path, status)
        elif kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=level.descriptor)
            yield self._form.link(path, status, link)
        elif kind == stat.S_IFIFO:
            yield self._form.fifo(path, status)
        else:
            self.tally.skip(path, _KINDS.get(kind, "an unknown file type"))
            yield b""

    def _descend(self, level: _Level, name: bytes, path: bytes) -> None:
        if self._path.rstrip(b"/") + b"/" + path.removeprefix(self._prefix) in _KERNEL_FILE_SYSTEMS:
            self.tally.skip(path, "a kernel file system")
        elif len(self._levels) >= DEEPEST:
            self.tally.skip(path, f"nested more than {DEEPEST} directories deep")
        else:
            self._enter(os.open(name, _OPEN_FLAGS | os.O_DIRECTORY, dir_fd=level.descriptor), path + b"/")

    def _file(self, level: _Level, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        if (status.st_dev, status.st_ino) == self._without:
            return
        again = self._form.again(path, status)
        if again:
            yield again
            return
        descriptor = os.open(name, _OPEN_FLAGS, dir_fd=level.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self.tally.skip(path, "it is no longer a regular file")
                return
            yield from self._form.file(descriptor, path, status)
        finally:
            os.close(descriptor)


def _open_any(path: bytes) -> int:
    """Open a directory or a regular file."""
    # Checked before opening, too, which already has an effect on some devices.
    _check_kind(path, os.stat(path))
    descriptor = os.open(path, _OPEN_FLAGS & ~os.O_NOFOLLOW)
    try:
        _check_kind(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_kind(path: bytes, status: os.stat_result) -> None:
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise RefusalError(REFUSED, f"{shown(path)}: is neither a directory nor a regular file")


def _names(descriptor: int) -> Generator[bytes]:
    with os.scandir(descriptor) as entries:
        for entry in entries:
            yield os.fsencode(entry.name)
