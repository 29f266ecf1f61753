"""What the host knows of a watched directory: the names in it and, if wanted, in all directories below.

The kernel names a directory by a number, and the agent finds it by its path, which may lead elsewhere by then. So the
names that the host knows are kept, and a directory is compared with them when it comes to be watched.
"""

from __future__ import annotations

import errno
import os

from .changes import CREATED, DELETED, OVERFLOW, Changes
from .directory_numbers import UNWATCHED, Directory, DirectoryNumbers
from .entries import DRAFT
from .inotify import Inotify, WatchLimitError
from .watch_room import Room, Share

_KERNEL_FILE_SYSTEMS = frozenset((b"/proc", b"/sys", b"/dev"))


class KnownTree:
    """The directories and names that the host knows, and how to make them agree with the disk.

    Attributes:
        root: The watched directory.
        only: The name that matters in it, if a file is watched; else empty.
        shown: The watched path, as it was given.
        real: The directory's path without links.
        numbers: The watched directories.
        share: How much it has of the room.

    Args:
        path: A directory, or a file.
        shown: The path as the host names it.
        inotify: The queue of events.
        changes: What is told.
        room: What all trees may have.
        recursive: Whether to watch the directories below it.
        ignore_hidden: Whether to ignore what has a name that begins with a dot, and all in it.

    Raises:
        OSError: It is not there.
    """

    def __init__(
        self,
        path: bytes,
        shown: bytes,
        inotify: Inotify,
        changes: Changes,
        room: Room,
        *,
        recursive: bool,
        ignore_hidden: bool,
    ) -> None:
        self.root = Directory(None, b"")
        self.only = b""
        self.shown = shown.rstrip(b"/") or b"/"
        self.real = os.path.realpath(path, strict=True)
        self._recursive = recursive
        if not os.path.isdir(self.real):
            # Editors replace a file by a new one, so that only its directory sees all that happens to it.
            self.real, self.only = os.path.split(self.real)
            self._recursive = False
        self.share = Share()
        self.numbers = DirectoryNumbers(inotify, self.real, room, self.share)
        self._changes = changes
        self._room = room
        self._ignored = (b".", DRAFT) if ignore_hidden else (DRAFT,)
        self._told = False

    def begin(self) -> None:
        """Watch what is there; from now on differences are told.

        Raises:
            WatchLimitError: There are too many directories or names.
            OSError: It is gone.
        """
        self.compare(self.root)
        if self.root.number == UNWATCHED:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._told = True

    def compare(self, start: Directory, *, verify: bool = False, thorough: bool = False) -> None:
        """Watch a directory and those below, and tell how those that were not watched differ from what the host knows.

        Args:
            start: The directory.
            verify: Whether those below a directory that was watched may be others by now.
            thorough: Whether to look also into those that were watched.
        """
        pending = [(start, verify or thorough)]
        while pending:
            directory, verify = pending.pop()
            is_new = self._watch(directory)
            if is_new is None:
                continue
            if is_new or thorough:
                self._look(directory)
            if self._recursive and (is_new or verify):
                pending += [(entry, True) for entry in directory.entries.values() if entry is not None]

    def add(self, directory: Directory, name: bytes, *, is_directory: bool) -> None:
        """Add a name and tell it; if there is no room, tell that instead."""
        try:
            self._room.check_names()
        except WatchLimitError as error:
            self._refuse(directory, error)
            return
        directory.entries[name] = Directory(directory, name) if is_directory else None
        self.share.names += 1
        if self._told:
            self._changes.add(CREATED, self.path(directory, name), directory=is_directory)

    def remove(self, directory: Directory, name: bytes) -> None:
        """Remove a name with all below it, and tell it."""
        is_directory = directory.entries[name] is not None
        self._forget(directory, name)
        self._changes.add(DELETED, self.path(directory, name), directory=is_directory)

    def move(self, source: Directory, old: bytes, target: Directory, new: bytes) -> None:
        """Move a name, over what the host knows there; the caller tells it, and compares what was moved."""
        entry = source.entries.pop(old)
        if new in target.entries:
            self._forget(target, new)
        target.entries[new] = entry
        if entry is not None:
            entry.parent, entry.name = target, new

    def ignores(self, directory: Directory, name: bytes) -> bool:
        """Tell whether a name does not matter."""
        if self.only and directory is self.root:
            return name != self.only
        return name.startswith(self._ignored)

    def path(self, directory: Directory, name: bytes = b"") -> bytes:
        """Return a path as the host knows it."""
        return self.shown if self.only else directory.path(self.shown, name)

    def _watch(self, directory: Directory) -> bool | None:
        """Watch a directory if it matters; see `DirectoryNumbers.watch`."""
        if directory is not self.root and (not self._recursive or directory.path(self.real) in _KERNEL_FILE_SYSTEMS):
            return None
        try:
            return self.numbers.watch(directory)
        except WatchLimitError as error:
            self._refuse(directory, error)
            return None

    def _look(self, directory: Directory) -> None:
        """Tell how a directory differs from what the host knows."""
        try:
            with os.scandir(directory.path(self.real)) as entries:
                found = {
                    entry.name: entry.is_dir(follow_symlinks=False)
                    for entry in entries
                    if not self.ignores(directory, entry.name)
                }
        except OSError:
            if not self._told and directory is self.root:
                raise
            return  # It is gone, and an event will say so.
        for name, entry in list(directory.entries.items()):
            if found.get(name) != (entry is not None):
                self.remove(directory, name)
        for name, is_directory in found.items():
            if name not in directory.entries:
                self.add(directory, name, is_directory=is_directory)

    def _refuse(self, directory: Directory, error: WatchLimitError) -> None:
        if not self._told:
            raise error
        self._changes.add(OVERFLOW, self.path(directory), directory=True, reason=error.message)

    def _forget(self, directory: Directory, name: bytes) -> None:
        """Forget a name and all below it."""
        pending = [directory.entries.pop(name)]
        self.share.names -= 1
        while pending:
            entry = pending.pop()
            if entry is not None:
                self.numbers.release(entry)
                self.share.names -= len(entry.entries)
                pending += entry.entries.values()
                entry.entries = {}
