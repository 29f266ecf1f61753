"""Files of this machine, as one end of a copy."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from .console import Trouble, plain
from .trees import Entry, Tree, kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator

    from anyio import AsyncFile

_PIECE = 256 * 1024
_OWN = 0o600


class Here(Tree):
    """This machine."""

    def name(self, path: str) -> str:
        """What a path is called in messages."""
        return plain(path)

    async def look(self, path: str) -> Entry | None:
        """What is there, links followed."""

        def look() -> Entry | None:
            try:
                return _entry(Path(path).name, Path(path).stat())
            except (FileNotFoundError, NotADirectoryError):
                return None

        with _told(path):
            return await anyio.to_thread.run_sync(look)

    async def entries(self, path: str) -> list[Entry]:
        """What is in a directory."""

        def entries() -> list[Entry]:
            with os.scandir(path) as found:
                return sorted(
                    (_entry(one.name, one.stat(follow_symlinks=False)) for one in found), key=lambda one: one.name
                )

        with _told(path):
            return await anyio.to_thread.run_sync(entries)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A file's content."""
        with _told(path):
            async with await anyio.open_file(path, "rb") as file:
                yield _pieces(file)

    async def write(self, path: str, content: AsyncIterable[bytes], mode: int) -> None:
        """Make or replace a file; what is no plain file is written into."""
        with _told(path):
            target = Path(await anyio.to_thread.run_sync(os.path.realpath, path))
            if await anyio.to_thread.run_sync(lambda: target.exists() and not target.is_file()):
                async with await anyio.open_file(target, "wb") as file:
                    await _fill(file, content)
                return
            new = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")

            def make(name: str, flags: int) -> int:
                return os.open(name, flags | os.O_EXCL | os.O_CLOEXEC, (mode & 0o777) | _OWN)

            try:
                async with await anyio.open_file(new, "wb", opener=make) as file:
                    await _fill(file, content)
                await anyio.to_thread.run_sync(new.replace, target)
            except BaseException:
                with suppress(OSError):  # the first error is the one that counts
                    new.unlink()
                raise

    async def make_directory(self, path: str) -> None:
        """Make a directory."""
        with _told(path):
            await anyio.to_thread.run_sync(lambda: Path(path).mkdir(parents=True, exist_ok=True))


async def standard_input() -> AsyncGenerator[bytes]:
    """What comes in; a wait for it can be given up."""
    descriptor = sys.stdin.fileno()
    mode = os.fstat(descriptor).st_mode
    # The others, plain files above all, cannot be waited for and need not be.
    patient = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    while True:
        if patient:
            await anyio.wait_readable(descriptor)
        piece = await anyio.to_thread.run_sync(os.read, descriptor, _PIECE)
        if not piece:
            return
        yield piece


async def _pieces(file: AsyncFile[bytes]) -> AsyncGenerator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


async def _fill(file: AsyncFile[bytes], content: AsyncIterable[bytes]) -> None:
    async for piece in content:
        await file.write(piece)


def _entry(name: str, found: os.stat_result) -> Entry:
    return Entry(name=name, kind=kind_of(found.st_mode), size=found.st_size, mode=stat.S_IMODE(found.st_mode))


@contextmanager
def _told(path: str) -> Generator[None]:
    """What the system refuses, as Trouble."""
    try:
        yield
    except OSError as error:
        raise Trouble(f"{plain(path)}: {error.strerror or error}") from None
