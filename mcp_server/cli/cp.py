"""`casemate cp`: copy files and directories in, out, and between sandboxes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from .box import Box
from .console import Trouble, err, note, plain, run, show_json, write_raw
from .copying import Spot, copy
from .here import Here, standard_input
from .options import AsJson, place_of
from .place import open_remote
from .values import amount, check_ref

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from .remote import Remote

_STANDARD = "-"
_IN_BOX = re.compile(r"([^/:]+):(.*)", re.DOTALL)
_NEW = 0o644


def cp(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path here, BOX:/PATH, or - for standard input.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A path here, BOX:/PATH, or - for standard output.")],
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Directories are copied whole anyway; for the fingers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a file or a directory: into a sandbox, out of one, or from one to another.

    Names are given as cp gives them: into TARGET if that is a directory, under its name else. A local path with a colon
    is written ./so. Files are replaced whole or not at all; executable ones stay so.
    """
    del recursive
    ends = (_End.parse(source), _End.parse(target))
    if not any(end.ref for end in ends):
        raise Trouble("Neither is in a sandbox: write one of them as BOX:/PATH")

    async def work() -> _Tally:
        async with open_remote(place_of(context)) as remote:
            with _shown() as tally:
                await _transfer(remote, *ends, tally)
                return tally

    tally = run(work)
    if as_json and target != _STANDARD:
        show_json({"files": tally.files, "bytes": tally.size, "skipped": tally.skipped})
    elif tally.files != 1:
        note(f"Copied {tally.files} files, {amount(tally.size)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One end of a copy; `ref` is empty for this machine."""

    ref: str
    path: str

    @classmethod
    def parse(cls, text: str) -> _End:
        if not text or "\0" in text:
            raise Trouble(f"{text[:80]!r} is no path: write a path here, BOX:/PATH, or -")
        found = _IN_BOX.fullmatch(text)
        if found is None:
            return cls(ref="", path=text)
        if not found[2].startswith("/"):
            raise Trouble(
                f"{text[:80]!r}: paths in a sandbox are absolute: write {found[1][:80]}:/root/{found[2][:80]}"
            )
        return cls(ref=check_ref(found[1]), path=found[2])

    def spot(self, remote: Remote) -> Spot:
        return Spot(tree=Box(remote, self.ref) if self.ref else Here(), path=self.path)


class _Tally:
    """What was copied, and the bar that shows it if there is one."""

    def __init__(self, bars: Progress | None = None) -> None:
        self.files = 0
        self.size = 0
        self.skipped: list[str] = []
        self._bars = bars
        self._task = bars.add_task("", total=None) if bars else None

    def begin(self, name: str, size: int) -> None:
        self.files += 1
        if self._bars is not None and self._task is not None:
            self._bars.reset(self._task, description=plain(name)[-60:], total=size or None)

    def advance(self, count: int) -> None:
        self.size += count
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)

    def skip(self, name: str, why: str) -> None:
        self.skipped.append(name)
        note(f"Left out {name}: {why}.")


@contextmanager
def _shown() -> Generator[_Tally]:
    """A tally, with a bar on a terminal."""
    if not err.is_terminal:
        yield _Tally()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        yield _Tally(bars)


async def _transfer(remote: Remote, source: _End, target: _End, tally: _Tally) -> None:
    if source.path == _STANDARD and not source.ref:
        tally.begin("standard input", 0)
        spot = target.spot(remote)
        there = await spot.tree.look(spot.path)
        if there is not None and there.kind == "directory":
            raise Trouble(f"{spot.name} is a directory: name the file that standard input goes into")
        await spot.tree.write(spot.path, _counted_input(tally), _NEW if there is None else there.mode)
    elif target.path == _STANDARD and not target.ref:
        spot = source.spot(remote)
        tally.begin(spot.name, 0)
        async with spot.tree.open(spot.path) as content:
            async for piece in content:
                await write_raw("stdout", piece)
                tally.advance(len(piece))
    else:
        await copy(source.spot(remote), target.spot(remote), tally)


async def _counted_input(tally: _Tally) -> AsyncGenerator[bytes]:
    async for piece in standard_input():
        yield piece
        tally.advance(len(piece))
