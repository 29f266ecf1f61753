"""The open directories that an archive is unpacked into, each opened relative to its parent, never through a link."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from .tar import DIRECTORY, Member

MAX_DEPTH = 400
"""Nesting depth of directories, at most; each level takes a descriptor."""

FATAL = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Error numbers after which nothing else can be created either."""

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE_MODE = 0o700


class Refusal(Exception):
    """A member is not unpacked; the message says why."""


class _Level:
    """An open directory.

    Attributes:
        attributes: The member whose mode, owner and time it gets when it is closed; None if it existed before and
            keeps its own.
    """

    def __init__(self, name: bytes, descriptor: int, attributes: Member | None) -> None:
        self.name = name
        self.descriptor = descriptor
        self.attributes = attributes


class Directories:
    """A path of open directories, from the root of the unpacked tree to the directory of the last member.

    Args:
        root: A descriptor of the root, which this object closes.
        set_attributes: Sets a directory's mode, owner and time to those of a member.
        fresh: Whether the root was created for this archive.
        mode: The mode of directories that have no member of their own.
    """

    def __init__(self, root: int, set_attributes: Callable[[int, Member], None], *, fresh: bool, mode: int) -> None:
        self._set_attributes = set_attributes
        self._mode = mode
        self._fresh = fresh
        self._levels = [_Level(b"", root, None)]

    def enter(self, names: list[bytes]) -> int:
        """Open a directory, creating it if it is missing, and return its descriptor, valid until the next call.

        Raises:
            Refusal: A part of the path is a link or a file, or the path is nested too deep.
            OSError: It cannot be opened or created.
        """
        if len(names) > MAX_DEPTH:
            raise Refusal(f"nested more than {MAX_DEPTH} directories deep")
        common = 0
        while common < min(len(names), len(self._levels) - 1) and self._levels[common + 1].name == names[common]:
            common += 1
        self._close_below(common)
        for name in names[common:]:
            self._levels.append(self._enter_one(name))
        return self._levels[-1].descriptor

    def make(self, member: Member) -> None:
        """Create a directory, which gets the mode and time of its member once it is complete.

        Raises:
            Refusal: As `enter`.
            OSError: As `enter`.
        """
        names = split(member.path)
        self.enter(names)
        level = self._levels[-1]
        if level.attributes is not None or (not names and self._fresh):
            level.attributes = member

    def open_existing(self, names: list[bytes]) -> int:
        """Open a directory that must exist, and return a descriptor that the caller must close.

        Raises:
            Refusal: A part of the path is a link or a file.
            OSError: It is missing or cannot be opened.
        """
        descriptor = os.dup(self._levels[0].descriptor)
        for name in names:
            try:
                below = _open(name, descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def leave(self) -> None:
        """Set the attributes of all directories after the last member, and close all but the root."""
        self._close_below(0)
        root = self._levels[0]
        if root.attributes is not None:
            self._set_attributes(root.descriptor, root.attributes)

    def close(self) -> None:
        """Close all open directories."""
        while self._levels:
            os.close(self._levels.pop().descriptor)

    def _close_below(self, depth: int) -> None:
        while len(self._levels) > depth + 1:
            level = self._levels.pop()
            try:
                if level.attributes is not None:
                    self._set_attributes(level.descriptor, level.attributes)
            finally:
                os.close(level.descriptor)

    def _enter_one(self, name: bytes) -> _Level:
        parent = self._levels[-1].descriptor
        attributes = None
        try:
            descriptor = _open(name, parent)
        except FileNotFoundError:
            os.mkdir(name, _PRIVATE_MODE, dir_fd=parent)
            descriptor = _open(name, parent)
            attributes = Member(path=name, kind=DIRECTORY, mode=self._mode, uid=os.geteuid(), gid=os.getegid())
            attributes.mtime_ns = os.fstat(descriptor).st_mtime_ns
        return _Level(name, descriptor, attributes)


def split(path: bytes) -> list[bytes]:
    """Split a member's path into its parts; leading slashes are ignored.

    Raises:
        Refusal: It contains `..`.
    """
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise Refusal("its path contains '..'")
    return parts


def _open(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except NotADirectoryError:
        raise Refusal("a part of its path is a link or a file, not a directory") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Refusal("a part of its path is a link, not a directory") from None
