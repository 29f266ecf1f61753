"""Copying of files and directories from one tree to another."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING, Protocol

from .console import CliError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from .tree import Entry
    from .tree_path import TreePath


class Watcher(Protocol):
    """An observer of a copy's progress."""

    def begin(self, name: str, size: int) -> None:
        """Report that a copy of about this many bytes begins; 0 if the size is unknown."""
        ...

    def advance(self, count: int) -> None:
        """Report that this many more bytes were copied."""
        ...

    def done(self, files: int, size: int) -> None:
        """Report the files and bytes of a completed copy."""
        ...

    def skip(self, names: list[tuple[str, str]], count: int) -> None:
        """Report how many entries were skipped, with name and reason of some."""
        ...


async def copy(source: TreePath, target: TreePath, watcher: Watcher) -> None:
    """Copy a file or a directory to a target that is interpreted as `cp -r` does.

    A directory is copied as one tar stream, so links stay links. Entries that cannot be read or created are skipped and
    reported.

    Raises:
        CliError: The source does not exist, cannot be read, or cannot be copied to the target.
    """
    found = await source.tree.find(source.path)
    if found is None:
        raise CliError(f"{source.name}: there is no such file or directory")
    old = await target.tree.find(target.path)
    into = old is not None and old.kind == "directory"
    if into and source.last:
        target = target.below(source.last)
        old = await target.tree.find(target.path)
    if _within(source, target):
        raise CliError(f"{target.name} is inside {source.name}: copy to a path outside of it")
    if found.kind == "directory":
        if old is not None and old.kind != "directory":
            raise CliError(f"{target.name} is a file: a directory cannot replace it")
        await _directory(source, target, watcher)
        return
    if not into and target.path.endswith("/"):
        raise CliError(f"{target.name}: there is no such directory")
    if old is not None and old.kind == "directory":
        raise CliError(f"{target.name} is a directory: a file cannot replace it")
    await _file(source, target, found, watcher)


def _within(source: TreePath, target: TreePath) -> bool:
    outer, inner = (f"{end.tree.name(normpath(end.path)).rstrip('/')}/" for end in (source, target))
    return inner.startswith(outer)


async def _directory(source: TreePath, target: TreePath, watcher: Watcher) -> None:
    watcher.begin(source.name, await source.tree.estimate_size(source.path))
    owners = source.tree.sandbox and target.tree.sandbox
    async with source.tree.pack(source.path) as content:
        report = await target.tree.unpack(target.path, _counted(content, watcher), owners=owners)
    watcher.done(report.files, report.size)
    if report.skipped:
        names = [(source.below(path).name, reason) for path, reason in report.listed]
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
