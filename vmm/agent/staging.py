"""A directory in which an archive is unpacked before it gets to its place, so that a failure leaves nothing.

It is inside of the target, hence on the same file system, and every entry gets to its place by one rename. All steps
use a directory's descriptor and a single name, so no symbolic link leads out of the target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator

from .entries import parent_of, status_of
from .pulse import Pulse
from .refusals import RefusalError, from_os_error
from .tally import Tally

_MAX_SCANS = 20
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Level:
    """A directory whose entries are moved or deleted.

    Attributes:
        source: Its descriptor.
        target: The descriptor of the directory that its entries are moved to; None to delete them.
        name: Its name in its parent.
        path: Its path below the staging directory, with a slash at its end.
    """

    def __init__(self, source: int, target: int | None, name: bytes, path: bytes) -> None:
        self.source = source
        self.target = target
        self.name = name
        self.path = path
        self._names = _names(source)
        self._scans = 1

    def next(self) -> bytes | None:
        """Return the name of the next entry, or None at the end.

        Every entry that it returns is moved or deleted. A directory may not list some while others disappear, so it is
        read again until it is empty; not forever, as somebody in the sandbox may put others into it.
        """
        name = next(self._names, None)
        if name is None and self._scans < _MAX_SCANS:
            self._scans += 1
            self._names.close()
            self._names = _names(self.source)
            name = next(self._names, None)
        return name

    def close(self) -> None:
        self._names.close()
        os.close(self.source)
        if self.target is not None:
            os.close(self.target)


class Staging:
    """A staging directory in a target directory; both are created.

    Args:
        target: Absolute; a link is followed.
        pulse: Tells the host that work goes on.

    Raises:
        OSError: The target cannot be created or opened.
    """

    def __init__(self, target: bytes, pulse: Pulse) -> None:
        self._pulse = pulse
        self._name = b".casemate-" + os.urandom(8).hex().encode()
        self._made = _make_missing(target)
        self._target = -1
        try:
            self._target = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.mkdir(self._name, 0o700, dir_fd=self._target)
        except BaseException:
            self._forget()
            raise

    def open(self) -> int:
        """Return a new descriptor of the staging directory."""
        return os.open(self._name, _OPEN, dir_fd=self._target)

    def merge(self, tally: Tally) -> None:
        """Move everything to the target, replacing files there and merging directories.

        What cannot be moved is deleted: `tally` counts it as skipped, and no longer as unpacked.

        Raises:
            RefusalError: The file system failed; some entries were moved.
        """
        self._made = []
        try:
            self._empty(tally, into_target=True)
        except OSError as error:
            refusal = from_os_error(error)
            raise RefusalError(refusal.code, f"{refusal.message}; a part of the archive was unpacked") from error

    def discard(self) -> None:
        """Delete the staging directory with what is left in it, and the target if it was created for nothing."""
        with contextlib.suppress(OSError):
            self._empty(Tally(), into_target=False)
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._target)
        self._forget()

    def _forget(self) -> None:
        if self._target >= 0:
            os.close(self._target)
        for path in reversed(self._made):
            with contextlib.suppress(OSError):  # Somebody else uses it by now.
                os.rmdir(path)

    def _empty(self, tally: Tally, *, into_target: bool) -> None:
        source = self.open()
        levels = [_Level(source, os.dup(self._target) if into_target else None, b"", b"")]
        try:
            while levels:
                self._pulse.beat()
                name = levels[-1].next()
                if name is not None:
                    below = _take(levels[-1], name, tally)
                    if below is not None:
                        levels.append(below)
                    continue
                level = levels.pop()
                level.close()
                if levels:
                    os.rmdir(level.name, dir_fd=levels[-1].source)
        finally:
            for level in levels:
                level.close()


def _take(level: _Level, name: bytes, tally: Tally) -> _Level | None:
    """Move or delete one entry; a directory with entries of its own is returned, to be emptied first."""
    status = os.stat(name, dir_fd=level.source, follow_symlinks=False)
    target = level.target
    if target is not None:
        try:
            into = _move(level.source, target, name, status)
        except OSError as error:
            tally.skip(level.path + name, _reason(error))
            target = None
        else:
            return None if into is None else _below(level, name, into)
    if stat.S_ISDIR(status.st_mode):
        return _below(level, name, None)
    os.unlink(name, dir_fd=level.source)
    tally.files -= 1
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        tally.size -= status.st_size
    return None


def _move(source: int, target: int, name: bytes, status: os.stat_result) -> int | None:
    """Move an entry, or open the directory at its place into which its own entries are to be moved."""
    if stat.S_ISDIR(status.st_mode):
        try:
            return os.open(name, _OPEN, dir_fd=target)
        except FileNotFoundError:
            pass
    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    return None


def _below(level: _Level, name: bytes, target: int | None) -> _Level:
    try:
        source = os.open(name, _OPEN, dir_fd=level.source)
    except BaseException:
        if target is not None:
            os.close(target)
        raise
    return _Level(source, target, name, level.path + name + b"/")


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOTDIR | errno.ELOOP:
            return "a file or a link is in the place of the directory"
        case errno.EISDIR:
            return "a directory is in the place of the file"
        case errno.EXDEV:
            return "another file system is mounted at its place; unpack into that directory"
        case _:
            return os.strerror(error.errno or 0)


def _make_missing(path: bytes) -> list[bytes]:
    """Make a directory and the missing ones above it, and return those that were made."""
    missing: list[bytes] = []
    while status_of(path) is None:
        missing.append(path)
        path = parent_of(path)
    made: list[bytes] = []
    try:
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory)
                made.append(directory)
    except BaseException:
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise
    return made


def _names(descriptor: int) -> Generator[bytes]:
    with os.scandir(descriptor) as entries:
        for entry in entries:
            yield os.fsencode(entry.name)
