"""Copies files and directories from one tree to another, in whichever places they are."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING, Protocol

from .console import CliError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from .tree import Entry
    from .tree_path import TreePath


class Watcher(Protocol):
    """Who is told how a copy goes on."""

    def begin(self, name: str, size: int) -> None:
        """So many bytes are copied next, about; 0 where nobody knows."""
        ...

    def advance(self, count: int) -> None:
        """So many bytes more have gone over."""
        ...

    def done(self, files: int, size: int) -> None:
        """So many files with so many bytes are there."""
        ...

    def skip(self, names: list[tuple[str, str]], count: int) -> None:
        """So many were left out; of some the names and why."""
        ...


async def copy(source: TreePath, target: TreePath, watcher: Watcher) -> None:
    """Copy a file or a whole directory, named as `cp -r` names things.

    A directory goes as one stream and takes what tar takes: links stay links. What cannot be read or made is left out,
    and said so.

    Raises:
        CliError: There is nothing at the source, or nothing can be read or written.
    """
    found = await source.tree.look(source.path)
    if found is None:
        raise CliError(f"{source.name}: there is no such file or directory")
    there = await target.tree.look(target.path)
    into = there is not None and there.kind == "directory"
    if into and source.last:
        target = target.below(source.last)
        there = await target.tree.look(target.path)
    if _within(source, target):
        raise CliError(f"{target.name} lies in {source.name}: what is copied cannot hold its copy")
    if found.kind == "directory":
        if there is not None and there.kind != "directory":
            raise CliError(f"{target.name} is a file: a directory cannot be put in its place")
        await _directory(source, target, watcher)
        return
    if not into and target.path.endswith("/"):
        raise CliError(f"{target.name}: there is no such directory")
    if there is not None and there.kind == "directory":
        raise CliError(f"{target.name} is a directory: a file cannot be put in its place")
    await _file(source, target, found, watcher)


def _within(source: TreePath, target: TreePath) -> bool:
    outer, inner = (f"{spot.tree.name(normpath(spot.path)).rstrip('/')}/" for spot in (source, target))
    return inner.startswith(outer)


async def _directory(source: TreePath, target: TreePath, watcher: Watcher) -> None:
    watcher.begin(source.name, await source.tree.estimate_size(source.path))
    owners = source.tree.sandbox and target.tree.sandbox
    async with source.tree.pack(source.path) as content:
        report = await target.tree.unpack(target.path, _counted(content, watcher), owners=owners)
    watcher.done(report.files, report.size)
    if report.skipped:
        names = [(source.below(path).name, why) for path, why in report.listed]
        watcher.skip(names, report.skipped)


async def _file(source: TreePath, target: TreePath, found: Entry, watcher: Watcher) -> None:
    watcher.begin(source.name, found.size)
    count = 0

    async def counted(content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        nonlocal count
        async for piece in _counted(content, watcher):
            count += len(piece)
            yield piece

    async with source.tree.open(source.path) as content:
        await target.tree.write(target.path, counted(content), found.mode)
    watcher.done(1, count)


async def _counted(content: AsyncIterable[bytes], watcher: Watcher) -> AsyncIterator[bytes]:
    async for piece in content:
        yield piece
        watcher.advance(len(piece))
