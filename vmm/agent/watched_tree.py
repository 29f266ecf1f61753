"""Turns the kernel's events of a directory, and of all below it if wanted, into changes of what the host knows.

An event is read later than it happened, and says which directory by a number. A new directory is watched and then
looked into: what was made in it before that is told, and what the events repeat is not. Whenever a directory gets a new
path, the numbers of all below it are checked again. At the last event for a name its path leads to where it will stay,
so what was told and what is there agree once the queue is empty, in whatever order things happened.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from . import inotify as flags
from .changes import CHMOD, DELETED, MODIFIED, OVERFLOW, RENAMED, UNMOUNTED, Changes
from .directory_numbers import Directory
from .inotify import Event
from .known_tree import KnownTree


class _Move(NamedTuple):
    """The first half of a rename."""

    directory: Directory
    name: bytes
    entry: Directory | None

    @property
    def is_valid(self) -> bool:
        """Whether the host still knows what was moved by its old name."""
        return self.name in self.directory.entries and self.directory.entries[self.name] is self.entry


class WatchedTree:
    """Handles events; to be used by one thread.

    Attributes:
        ended: Why there is nothing to watch any more; empty while there is.

    Args:
        known: What the host knows.
        changes: What is told.
    """

    def __init__(self, known: KnownTree, changes: Changes) -> None:
        self.ended = ""
        self._known = known
        self._changes = changes
        self._moves: dict[int, _Move] = {}
        self._unmounted: list[Directory] = []
        self._lost = False
        status = os.stat(known.real)
        self._identity = (status.st_dev, status.st_ino)

    @property
    def is_waiting(self) -> bool:
        """Whether the second half of a rename is missing; it comes at once if it comes."""
        return bool(self._moves)

    def handle(self, events: list[Event]) -> None:
        """Tell what some events of the queue mean."""
        for event in events:
            if event.mask & flags.QUEUE_OVERFLOW:
                self._overflow()
            elif (directory := self._known.numbers.get(event.watch)) is not None:
                self._settle_before(directory, event)
                if event.name:
                    self._handle_entry(directory, event)
                else:
                    self._handle_itself(directory, event)
            if self.ended:
                return
        self._show_unmounted()
        self._known.numbers.tidy()

    def settle(self) -> None:
        """Take what was moved and did not arrive for gone. For an empty queue."""
        while self._moves:
            self._gone(self._moves.popitem()[1])
        self._known.numbers.tidy()

    def catch_up(self) -> None:
        """Tell what is different from what the host knows, if events were lost. For an empty queue."""
        if self._lost:
            self._lost = False
            self._known.compare(self._known.root, thorough=True)
            self._known.numbers.tidy()

    def check(self) -> None:
        """End if the path leads elsewhere by now: no event tells that a directory above was moved."""
        try:
            status = os.stat(self._known.real)
        except OSError:
            self._end("it was deleted or moved")
            return
        if (status.st_dev, status.st_ino) != self._identity:
            self._end("it was replaced")

    def _handle_itself(self, directory: Directory, event: Event) -> None:
        """Handle an event about a watched directory; what its parent tells, too, counts for the root alone."""
        is_root = directory is self._known.root
        if event.mask & flags.UNMOUNT:
            if is_root:
                self._end("it was unmounted", UNMOUNTED)
            else:
                self._unmounted.append(directory)
        elif event.mask & flags.IGNORED:
            self._known.numbers.release(directory)
        elif is_root and event.mask & flags.DELETE_SELF:
            self._end("it was deleted")
        elif is_root and event.mask & flags.MOVE_SELF:
            self._end("it was moved")
        elif is_root and event.mask & flags.ATTRIB and not self._known.only:
            self._changes.add(CHMOD, self._known.shown, directory=True)

    def _handle_entry(self, directory: Directory, event: Event) -> None:
        name, mask = event.name, event.mask
        if mask & flags.MOVED_TO and event.cookie in self._moves:
            self._moved(self._moves.pop(event.cookie), directory, event)
        elif self._known.ignores(directory, name):
            return
        elif mask & (flags.CREATE | flags.MOVED_TO):
            self._arrived(directory, event)
        elif name not in directory.entries:
            return  # It was gone before the host was told of it.
        elif mask & flags.MOVED_FROM:
            self._moves[event.cookie] = _Move(directory, name, directory.entries[name])
        elif mask & flags.DELETE:
            self._known.remove(directory, name)
        else:
            kind = MODIFIED if mask & flags.MODIFY else CHMOD
            self._changes.add(kind, self._known.path(directory, name), directory=_is_directory(event))

    def _arrived(self, directory: Directory, event: Event) -> None:
        known, name = self._known, event.name
        if name in directory.entries and (directory.entries[name] is not None) != _is_directory(event):
            known.remove(directory, name)
        if name not in directory.entries:
            known.add(directory, name, is_directory=_is_directory(event))
        elif event.mask & flags.MOVED_TO and not _is_directory(event):
            self._changes.add(MODIFIED, known.path(directory, name))  # Something replaced it.
        entry = directory.entries.get(name)
        if entry is not None:
            known.compare(entry)

    def _moved(self, move: _Move, directory: Directory, event: Event) -> None:
        known, name = self._known, event.name
        if known.ignores(directory, name):
            self._gone(move)
            return
        if not move.is_valid or (move.entry is not None) != _is_directory(event):
            self._gone(move)  # What the host knew by this name was something else.
            self._arrived(directory, event)
            return
        old = known.path(move.directory, move.name)
        known.move(move.directory, move.name, directory, name)
        self._changes.add(RENAMED, known.path(directory, name), directory=_is_directory(event), old=old)
        if move.entry is not None:
            known.compare(move.entry, verify=True)

    def _gone(self, move: _Move) -> None:
        if move.is_valid:
            self._known.remove(move.directory, move.name)

    def _settle_before(self, directory: Directory, event: Event) -> None:
        """Take a half rename out of a directory for gone if something else happens in it: the halves are neighbours."""
        for cookie, move in list(self._moves.items()):
            if move.directory is directory and cookie != event.cookie:
                self._gone(self._moves.pop(cookie))

    def _overflow(self) -> None:
        self.settle()
        self._lost = True
        known = self._known
        self._changes.add(OVERFLOW, known.shown, directory=not known.only, reason="too much happened at once")

    def _show_unmounted(self) -> None:
        unmounted, self._unmounted = self._unmounted, []
        for directory in unmounted:
            if directory.parent not in unmounted:
                self._changes.add(UNMOUNTED, self._known.path(directory), directory=True)
                self._known.compare(directory, thorough=True)

    def _end(self, reason: str, kind: str = DELETED) -> None:
        self.ended = reason
        self._changes.add(kind, self._known.shown, directory=not self._known.only, reason=reason)


def _is_directory(event: Event) -> bool:
    return bool(event.mask & flags.IS_DIRECTORY)
