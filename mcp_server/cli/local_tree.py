"""Files on this host, as one end of a copy."""

from __future__ import annotations

import os
import secrets
import stat
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from vmm.agent.packing import Packer
from vmm.agent.tar import TarError
from vmm.agent.tar_packing import TarForm
from vmm.agent.unpacking import Unpacker

from .console import CliError, plain
from .tree import Entry, Report, Tree, kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterator

    from anyio import AsyncFile

_PIECE = 256 * 1024
_OWN = 0o600
_ESTIMATE_S = 2
_SECTOR = 512


class LocalTree(Tree):
    """The local file system.

    Args:
        outward: Whether links from a sandbox that point outside the target directory are created.
    """

    sandbox = False

    def __init__(self, *, outward: bool = False) -> None:
        self._outward = outward

    def name(self, path: str) -> str:
        """Return the name of a path for messages."""
        return plain(path)

    async def find(self, path: str) -> Entry | None:
        """Return the entry at a path, following links; None if there is none."""

        def find() -> Entry | None:
            try:
                return _entry(Path(path).name, Path(path).stat())
            except (FileNotFoundError, NotADirectoryError):
                return None

        with _os_errors(path):
            return await anyio.to_thread.run_sync(find)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a file and yield its content in pieces."""
        with _os_errors(path):
            async with await anyio.open_file(path, "rb") as file:
                yield _pieces(file)

    async def write(self, path: str, content: AsyncIterable[bytes], mode: int) -> None:
        """Create or replace a file; write into existing paths that are not regular files, such as devices."""
        with _os_errors(path):
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
                with suppress(OSError):  # report the first error, not this one
                    new.unlink()
                raise

    async def estimate_size(self, path: str) -> int:
        """Return the approximate size of a directory in bytes."""
        return await anyio.to_thread.run_sync(_size_of, path)

    @asynccontextmanager
    async def pack(self, path: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a directory as a tar stream."""
        with _os_errors(path):
            packer = await anyio.to_thread.run_sync(_packer, path)
        try:
            yield _stepped(packer.pieces())
        finally:
            packer.close()

    async def unpack(self, path: str, content: AsyncIterable[bytes], *, owners: bool) -> Report:
        """Unpack an untrusted tar stream from a sandbox; everything belongs to the current user."""
        del owners
        with _os_errors(path):
            root, fresh = await anyio.to_thread.run_sync(_directory, path)
        unpacker = Unpacker(root, fresh=fresh, umask=_umask(), inward=not self._outward)
        try:
            async for piece in content:
                with _os_errors(path):
                    await anyio.to_thread.run_sync(unpacker.feed, piece)
            unpacker.finish()
        except TarError as error:
            raise CliError(f"{plain(path)}: invalid archive from the sandbox: {error}") from None
        finally:
            unpacker.close()
        tally = unpacker.tally
        return Report(files=tally.files, size=tally.size, skipped=tally.skipped, listed=tally.listed)


async def standard_input() -> AsyncGenerator[bytes]:
    """Yield standard input in pieces; waiting for it can be cancelled."""
    descriptor = sys.stdin.fileno()
    mode = os.fstat(descriptor).st_mode
    # Regular files cannot be polled, and reading them does not block.
    pollable = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    while True:
        if pollable:
            await anyio.wait_readable(descriptor)
        piece = await anyio.to_thread.run_sync(os.read, descriptor, _PIECE)
        if not piece:
            return
        yield piece


async def _pieces(file: AsyncFile[bytes]) -> AsyncGenerator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


async def _stepped(pieces: Iterator[bytes]) -> AsyncGenerator[bytes]:
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        if piece:
            yield piece


def _directory(path: str) -> tuple[int, bool]:
    """Open a directory, creating it if needed; return its descriptor and whether it is new."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        Path(path).mkdir()
        fresh = True
    except FileExistsError:
        fresh = False
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fresh


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _packer(path: str) -> Packer:
    return Packer(os.fsencode(Path(path).absolute()), lambda tally: TarForm(tally, commented=True))


def _size_of(path: str) -> int:
    """Return the bytes below a directory; 0 if counting them takes too long."""
    end = time.monotonic() + _ESTIMATE_S
    total = 0
    for directory, _, names in os.walk(path):
        if time.monotonic() > end:
            return 0
        for name in names:
            with suppress(OSError):
                found = Path(directory, name).lstat()
                total += min(found.st_size, found.st_blocks * _SECTOR)
    return total


async def _fill(file: AsyncFile[bytes], content: AsyncIterable[bytes]) -> None:
    async for piece in content:
        await file.write(piece)


def _entry(name: str, found: os.stat_result) -> Entry:
    return Entry(name=name, kind=kind_of(found.st_mode), size=found.st_size, mode=stat.S_IMODE(found.st_mode))


@contextmanager
def _os_errors(path: str) -> Generator[None]:
    """Raise an `OSError` as a `CliError`."""
    try:
        yield
    except OSError as error:
        raise CliError(f"{plain(path)}: {error.strerror or error}") from None
