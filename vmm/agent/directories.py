"""The directories that something is unpacked into: opened one below the other, never through a link."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from .tar import DIRECTORY, Member

DEEPEST = 400
"""Directories within each other; every one takes a descriptor."""

FATAL = frozenset((errno.ENOSPC, errno.EDQUOT))
"""After these nothing else can be made either."""

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN = 0o700


class Refusal(Exception):
    """A member is not made; the message says why."""


class _Level:
    """A directory that is open.

    Attributes:
        look: What it gets when it is left; None for one that was there before and stays as it was.
    """

    def __init__(self, name: bytes, descriptor: int, look: Member | None) -> None:
        self.name = name
        self.descriptor = descriptor
        self.look = look


class Directories:
    """A path of open directories, from the outermost to where the last member went.

    Args:
        root: The outermost's descriptor, taken over.
        dress: Gives a directory the mode, owner and time of a member.
        fresh: Whether the outermost was made for this.
        mode: Of directories that no member tells of.
    """

    def __init__(self, root: int, dress: Callable[[int, Member], None], *, fresh: bool, mode: int) -> None:
        self._dress = dress
        self._mode = mode
        self._fresh = fresh
        self._levels = [_Level(b"", root, None)]

    def enter(self, names: list[bytes]) -> int:
        """The descriptor of a directory, which is made if it is not there; good until the next call.

        Raises:
            Refusal: A link or a file is in the way, or it lies too deep.
            OSError: It cannot be opened or made.
        """
        if len(names) > DEEPEST:
            raise Refusal(f"more than {DEEPEST} directories within each other")
        same = 0
        while same < min(len(names), len(self._levels) - 1) and self._levels[same + 1].name == names[same]:
            same += 1
        self._leave_below(same)
        for name in names[same:]:
            self._levels.append(self._opened(name))
        return self._levels[-1].descriptor

    def make(self, member: Member) -> None:
        """Make a directory, which gets the mode and time of the member once nothing more comes into it.

        Raises:
            Refusal: As `enter`.
            OSError: As `enter`.
        """
        names = split(member.path)
        self.enter(names)
        level = self._levels[-1]
        if level.look is not None or (not names and self._fresh):
            level.look = member

    def look(self, names: list[bytes]) -> int:
        """A descriptor of a directory that must be there, for the caller to close.

        Raises:
            Refusal: A link or a file is in the way.
            OSError: It is not there.
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
        """Nothing more comes: give every directory its looks."""
        self._leave_below(0)
        root = self._levels[0]
        if root.look is not None:
            self._dress(root.descriptor, root.look)

    def close(self) -> None:
        """Close what is open."""
        while self._levels:
            os.close(self._levels.pop().descriptor)

    def _leave_below(self, depth: int) -> None:
        while len(self._levels) > depth + 1:
            level = self._levels.pop()
            try:
                if level.look is not None:
                    self._dress(level.descriptor, level.look)
            finally:
                os.close(level.descriptor)

    def _opened(self, name: bytes) -> _Level:
        parent = self._levels[-1].descriptor
        look = None
        try:
            descriptor = _open(name, parent)
        except FileNotFoundError:
            os.mkdir(name, _OWN, dir_fd=parent)
            descriptor = _open(name, parent)
            look = Member(path=name, kind=DIRECTORY, mode=self._mode, uid=os.geteuid(), gid=os.getegid())
            look.mtime_ns = os.fstat(descriptor).st_mtime_ns
        return _Level(name, descriptor, look)


def split(path: bytes) -> list[bytes]:
    """The parts of a member's path; a slash before them is nothing.

    Raises:
        Refusal: It leads upwards.
    """
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise Refusal("its path leads upwards")
    return parts


def _open(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except NotADirectoryError:
        raise Refusal("there is a link or a file where its directory should be") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Refusal("there is a link where its directory should be") from None
