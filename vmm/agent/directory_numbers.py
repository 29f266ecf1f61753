"""The directories of one watch, and the numbers by which the kernel names them in its events."""

from __future__ import annotations

from .inotify import Inotify
from .watch_room import Room, Share

UNWATCHED = -1


class Directory:
    """A directory that the host knows.

    Attributes:
        parent, name: Where it is.
        number: The kernel's, while it is watched.
        entries: What is in it: directories, and None for everything else.
    """

    __slots__ = ("entries", "name", "number", "parent")

    def __init__(self, parent: Directory | None, name: bytes) -> None:
        self.parent = parent
        self.name = name
        self.number = UNWATCHED
        self.entries: dict[bytes, Directory | None] = {}

    def path(self, top: bytes, name: bytes = b"") -> bytes:
        """Return its path, or that of an entry, if the root directory has the path `top`."""
        names = [name] if name else []
        directory = self
        while directory.parent is not None:
            names.append(directory.name)
            directory = directory.parent
        return b"/".join((top.rstrip(b"/"), *reversed(names))) if names else top


class DirectoryNumbers:
    """The directories that the kernel watches. The kernel finds one by its path, which may lead elsewhere by then.

    Args:
        inotify: The queue of events.
        top: The path of the root directory.
        room: What all watches may have.
        share: What this one has.
    """

    def __init__(self, inotify: Inotify, top: bytes, room: Room, share: Share) -> None:
        self._inotify = inotify
        self._top = top
        self._room = room
        self._share = share
        self._directories: dict[int, Directory] = {}
        self._loose: set[int] = set()

    def get(self, number: int) -> Directory | None:
        """Return the directory with a number."""
        return self._directories.get(number)

    def watch(self, directory: Directory) -> bool | None:
        """Watch a directory at its path; return whether it was not watched before, or None if it cannot be.

        Raises:
            WatchLimitError: There are too many directories.
        """
        if directory.number == UNWATCHED:
            self._room.check_directories()
        try:
            number = self._inotify.add(directory.path(self._top))
        except OSError:
            self.release(directory)
            return None
        if number == directory.number:
            return False
        self.release(directory)
        other = self.get(number)
        if other is not None:
            if self._leads_to(other, number):
                return None  # The same directory, mounted at two places.
            self.release(other)  # It was moved, and the event for that will come.
        directory.number = number
        self._directories[number] = directory
        self._share.directories += 1
        return True

    def release(self, directory: Directory) -> None:
        """Watch a directory no longer; the kernel does so until `tidy`, in case it has only got another path."""
        if directory.number != UNWATCHED:
            self._loose.add(directory.number)
            del self._directories[directory.number]
            directory.number = UNWATCHED
            self._share.directories -= 1

    def tidy(self) -> None:
        """Have the kernel forget what nothing leads to any more."""
        for number in self._loose.difference(self._directories):
            self._inotify.remove(number)
        self._loose.clear()

    def _leads_to(self, directory: Directory, number: int) -> bool:
        try:
            found = self._inotify.add(directory.path(self._top))
        except OSError:
            return False
        if found not in self._directories:
            self._inotify.remove(found)
        return found == number
