"""A watched directory of this host, and what a host that follows its changes makes of them."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmm.agent.changes import Changes
from vmm.agent.inotify import Inotify
from vmm.agent.known_tree import KnownTree
from vmm.agent.watch_room import Room
from vmm.agent.watched_tree import WatchedTree

WAIT_MS = 60_000


class Watched:
    """A tree, its queue, and what was told of it."""

    def __init__(self, path: Path, inotify: Inotify, room: Room, *, recursive: bool, ignore_hidden: bool) -> None:
        self.told: list[dict[str, Any]] = []
        self.inotify = inotify
        self.changes = Changes(self._take)
        self.room = room
        self.known = KnownTree(
            os.fsencode(path),
            os.fsencode(path),
            inotify,
            self.changes,
            room,
            recursive=recursive,
            ignore_hidden=ignore_hidden,
        )
        self.room.shares.append(self.known.share)
        self.tree = WatchedTree(self.known, self.changes)
        self.known.begin()

    def drain(self) -> list[dict[str, Any]]:
        """Handle all that has happened, and return what is told of it."""
        before = len(self.told)
        while events := self.inotify.read():
            self.tree.handle(events)
        self.tree.settle()
        self.tree.catch_up()
        self.changes.flush()
        return self.told[before:]

    def wait(self) -> None:
        """Wait until something has happened."""
        poll = select.poll()
        poll.register(self.inotify.fileno(), select.POLLIN)
        assert poll.poll(WAIT_MS)

    def _take(self, piece: bytes) -> None:
        self.told += [json.loads(line) for line in piece.splitlines()]


@contextmanager
def watched(
    path: Path, *, recursive: bool = True, ignore_hidden: bool = False, room: Room | None = None
) -> Generator[Watched]:
    """Watch a path for the length of a block."""
    inotify = Inotify()
    try:
        yield Watched(path, inotify, room or Room(), recursive=recursive, ignore_hidden=ignore_hidden)
    finally:
        inotify.close()


class Copy:
    """What a client knows that has read a directory once and follows its changes: paths, and which are directories."""

    def __init__(self, top: Path) -> None:
        self.found = paths(top)

    def apply(self, changes: list[dict[str, Any]]) -> None:
        for change in changes:
            path = change["path"]
            match change["type"]:
                case "created":
                    assert path not in self.found, f"{path} was told twice"
                    self.found[path] = change["directory"]
                case "deleted":
                    assert path in self.found, f"{path} was never told"
                    self._take(path)
                case "renamed":
                    moved = self._take(change["old_path"])
                    self._take(path)
                    self.found |= {path + below: kind for below, kind in moved.items()}
                case _:
                    pass

    def _take(self, path: str) -> dict[str, bool]:
        """Remove a path and all below it; return them without it."""
        taken = {one: kind for one, kind in self.found.items() if one == path or one.startswith(f"{path}/")}
        for one in taken:
            del self.found[one]
        return {one.removeprefix(path): kind for one, kind in taken.items()}


def paths(top: Path) -> dict[str, bool]:
    """Return all that is below a directory, and whether it is a directory."""
    return {
        f"{at}/{name}": name in directories
        for at, directories, files in os.walk(top)
        for name in (*directories, *files)
    }


def named(changes: list[dict[str, Any]], top: Path) -> list[tuple[str, ...]]:
    """Return kind and names of changes, without the directory's own path."""
    return [
        tuple(
            text.removeprefix(f"{top}/")
            for text in (change["type"], change.get("old_path", ""), change["path"])
            if text
        )
        for change in changes
    ]
