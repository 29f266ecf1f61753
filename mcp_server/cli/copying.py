"""Copies files and directories from one tree to another, in whichever places they are."""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import join, normpath
from typing import TYPE_CHECKING, Protocol

from .console import Trouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from .trees import Entry, Tree


class Watcher(Protocol):
    """Who is told how a copy goes on."""

    def begin(self, name: str, size: int) -> None:
        """A file of so many bytes is copied next."""
        ...

    def advance(self, count: int) -> None:
        """So many bytes more are copied."""
        ...

    def skip(self, name: str, why: str) -> None:
        """Something is left out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A path in a tree."""

    tree: Tree
    path: str

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.tree.name(self.path)

    @property
    def last(self) -> str:
        """The path's last part; empty where the path means a directory's content, as `dir/.` does."""
        part = self.path.rstrip("/").rpartition("/")[2]
        return "" if part in {"", ".", ".."} else part

    def below(self, name: str) -> Spot:
        """A path in this directory."""
        return Spot(tree=self.tree, path=join(self.path, name))


async def copy(source: Spot, target: Spot, watcher: Watcher) -> int:
    """Copy a file or a whole directory, as `cp -r` names things; how many files were copied.

    Links to files are copied as files; links to directories, sockets and the like are left out, and said so.

    Raises:
        Trouble: There is nothing at the source, or something cannot be read or written.
    """
    found = await source.tree.look(source.path)
    if found is None:
        raise Trouble(f"{source.name}: there is no such file or directory")
    there = await target.tree.look(target.path)
    into = there is not None and there.kind == "directory"
    if into and source.last:
        target = target.below(source.last)
        there = await target.tree.look(target.path)
    if _within(source, target):
        raise Trouble(f"{target.name} lies in {source.name}: what is copied cannot hold its copy")
    if found.kind == "directory":
        if there is not None and there.kind != "directory":
            raise Trouble(f"{target.name} is a file: a directory cannot be put in its place")
        return await _directory(source, target, watcher)
    if not into and target.path.endswith("/"):
        raise Trouble(f"{target.name}: there is no such directory")
    if there is not None and there.kind == "directory":
        raise Trouble(f"{target.name} is a directory: a file cannot be put in its place")
    return await _file(source, target, found, watcher)


def _within(source: Spot, target: Spot) -> bool:
    outer, inner = (f"{spot.tree.name(normpath(spot.path)).rstrip('/')}/" for spot in (source, target))
    return inner.startswith(outer)


async def _directory(source: Spot, target: Spot, watcher: Watcher) -> int:
    await target.tree.make_directory(target.path)
    count = 0
    for entry in await source.tree.entries(source.path):
        inner, outer = source.below(entry.name), target.below(entry.name)
        found: Entry | None = entry
        if entry.kind == "link":
            found = await source.tree.look(inner.path)
            if found is None:
                watcher.skip(inner.name, "a link to nothing")
                continue
            if found.kind == "directory":
                watcher.skip(inner.name, "a link to a directory")
                continue
        match found.kind:
            case "directory":
                count += await _directory(inner, outer, watcher)
            case "file":
                count += await _file(inner, outer, found, watcher)
            case _:
                watcher.skip(inner.name, "neither file nor directory")
    return count


async def _file(source: Spot, target: Spot, found: Entry, watcher: Watcher) -> int:
    watcher.begin(source.name, found.size)
    async with source.tree.open(source.path) as content:
        await target.tree.write(target.path, _counted(content, watcher), found.mode)
    return 1


async def _counted(content: AsyncIterable[bytes], watcher: Watcher) -> AsyncIterator[bytes]:
    async for piece in content:
        yield piece
        watcher.advance(len(piece))
