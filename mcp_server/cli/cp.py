"""`casemate cp`: copy files and directories into, out of, and between sandboxes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from .console import CliError, err, note, plain, run, show_json, write_raw
from .local_tree import LocalTree, standard_input
from .options import AsJson, target_of
from .sandbox_tree import SandboxTree
from .target import open_remote
from .tree_copy import copy
from .tree_path import TreePath
from .values import amount, check_ref

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Generator

    from .remote import Remote

_STANDARD = "-"
_IN_SANDBOX = re.compile(r"([^/:]+):(.*)", re.DOTALL)
_NEW = 0o644
_INCOMPLETE = 1


def cp(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A local path, SANDBOX:/PATH, or - for standard input.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A local path, SANDBOX:/PATH, or - for standard output.")
    ],
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="No effect: directories are always copied recursively.")
    ] = False,
    outward: Annotated[
        bool, typer.Option("--outward-links", help="Also create local links that point outside TARGET.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a file or a directory into a sandbox, out of one, or from one to another.

    As with cp, SOURCE is copied into TARGET if TARGET is a directory; otherwise TARGET is the new name. Write a local
    path that contains a colon as ./a:b. Files are replaced atomically. Directories keep modes, times and links; files
    that cannot be copied are listed, and the exit status is 1.
    """
    del recursive
    ends = (_End.parse(source), _End.parse(target))
    if not any(end.ref for end in ends):
        raise CliError("Neither SOURCE nor TARGET is in a sandbox: write one of them as SANDBOX:/PATH")

    async def work() -> _Tally:
        async with open_remote(target_of(context)) as remote:
            with _shown() as tally:
                source_path, target_path = (end.tree_path(remote, outward=outward) for end in ends)
                await _transfer(source_path, target_path, tally)
                return tally

    tally = run(work)
    if as_json and target != _STANDARD:
        show_json(
            {"files": tally.files, "bytes": tally.size, "skipped": tally.skipped, "skippedCount": tally.skipped_count}
        )
    elif tally.files != 1:
        note(f"Copied {tally.files} files, {amount(tally.size)}.")
    if tally.skipped_count:
        raise typer.Exit(_INCOMPLETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One end of a copy; `ref` is empty for the local file system."""

    ref: str
    path: str

    @classmethod
    def parse(cls, text: str) -> _End:
        if not text or "\0" in text:
            raise CliError(f"{text[:80]!r} is not a path: write a local path, SANDBOX:/PATH, or -")
        found = _IN_SANDBOX.fullmatch(text)
        if found is None:
            return cls(ref="", path=text)
        if not found[2].startswith("/"):
            raise CliError(
                f"{text[:80]!r}: a path in a sandbox must be absolute: write {found[1][:80]}:/root/{found[2][:80]}"
            )
        return cls(ref=check_ref(found[1]), path=found[2])

    def tree_path(self, remote: Remote, *, outward: bool) -> TreePath:
        tree = SandboxTree(remote, self.ref) if self.ref else LocalTree(outward=outward)
        return TreePath(tree=tree, path=self.path)


class _Tally:
    """Counts of copied and skipped files, with an optional progress bar."""

    def __init__(self, bars: Progress | None = None) -> None:
        self.files = 0
        self.size = 0
        self.skipped: list[str] = []
        self.skipped_count = 0
        self._bars = bars
        self._task = bars.add_task("", total=None) if bars else None

    def begin(self, name: str, size: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.reset(self._task, description=plain(name)[-60:], total=size or None)

    def advance(self, count: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)

    def done(self, files: int, size: int) -> None:
        self.files += files
        self.size += size

    def skip(self, names: list[tuple[str, str]], count: int) -> None:
        self.skipped += [name for name, _ in names]
        self.skipped_count += count
        for name, reason in names:
            note(f"Skipped {name}: {reason}.")
        if count > len(names):
            note(f"Skipped {count - len(names)} more.")


@contextmanager
def _shown() -> Generator[_Tally]:
    """Yield a tally, with a progress bar if standard error is a terminal."""
    if not err.is_terminal:
        yield _Tally()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        yield _Tally(bars)


async def _transfer(source: TreePath, target: TreePath, tally: _Tally) -> None:
    if source.path == _STANDARD and not source.tree.sandbox:
        tally.begin("standard input", 0)
        old = await target.tree.find(target.path)
        if old is not None and old.kind == "directory":
            raise CliError(f"{target.name} is a directory: name a file to write standard input to")
        await target.tree.write(target.path, _counted(standard_input(), tally), _NEW if old is None else old.mode)
    elif target.path == _STANDARD and not target.tree.sandbox:
        tally.begin(source.name, 0)
        async with source.tree.open(source.path) as content:
            async for piece in _counted(content, tally):
                await write_raw("stdout", piece)
    else:
        await copy(source, target, tally)


async def _counted(content: AsyncIterable[bytes], tally: _Tally) -> AsyncGenerator[bytes]:
    size = 0
    async for piece in content:
        yield piece
        size += len(piece)
        tally.advance(len(piece))
    tally.done(1, size)
