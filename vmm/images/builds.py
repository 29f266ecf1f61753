"""Builds images: one at a time, next to the finished ones, in a temporary directory that is always removed."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from vmm.errors import HostExhausted, Unavailable

from .commands import run
from .progress import Meter
from .recipe import Recipe, Workshop
from .store import Part, Store
from .tools import Tools, find_tools

_LOCK = ".lock"
_BUILD = ".build-"
_POLL_S = 0.2
_REMOVE_S = 300
_NO_SPACE = "No space left on device"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Site:
    """The directory of all images, locked for one build."""

    def __init__(self, root: Path, lock: int) -> None:
        self._root = root
        self._lock = lock
        self._tools: Tools | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path, *, waiting: Callable[[], None]) -> AsyncGenerator[Site]:
        """Lock the directory; waits while another build, in this or another process, holds the lock.

        The programs that a build starts inherit the lock: if the build is killed, the next one waits until the last of
        them has ended.

        Args:
            root: The directory, created if needed.
            waiting: Called repeatedly while another build holds the lock; an error that it raises ends the wait.

        Raises:
            Unavailable: The directory cannot be made or written to.
        """
        lock = await anyio.to_thread.run_sync(_open, root)
        try:
            while not _try(lock):
                waiting()
                await anyio.sleep(_POLL_S)
            yield cls(root, lock)
        finally:
            os.close(lock)

    async def prepare(self) -> None:
        """Find the tools, and remove the leftovers of interrupted builds, which nobody uses while we hold the lock.

        Raises:
            Unavailable: Tools are missing.
        """
        self._tools = await find_tools()
        for stale in await anyio.to_thread.run_sync(lambda: list(self._root.glob(f"{_BUILD}*"))):
            await self.remove(stale)

    async def build(self, recipe: Recipe, inputs: Mapping[str, str], store: Store, meter: Meter) -> Part:
        """Build one part and publish it.

        Raises:
            Unavailable: The build failed.
            HostExhausted: The disk is full.
        """
        assert self._tools is not None, "prepare comes first"
        directory = self._root / f"{_BUILD}{secrets.token_hex(4)}"
        made, scratch = directory / "made", directory / "scratch"
        report = meter.part(recipe.weight)
        try:
            await anyio.to_thread.run_sync(_make, directory, made, scratch)
            shop = Workshop(tools=self._tools, scratch=scratch, report=report, held=(self._lock,))
            facts = await recipe.build(shop, made)
            report("Checking the result", 0.97)
            part = await anyio.to_thread.run_sync(store.publish, recipe.name, made, inputs, facts)
        except OSError as error:
            if error.errno in _FULL:
                raise _full(recipe) from error
            raise Unavailable(f"Building {recipe.name} failed: {error}", hint="Try again") from error
        except Unavailable as error:
            if _NO_SPACE in error.message:
                raise _full(recipe) from error
            raise Unavailable(f"Building {recipe.name} failed: {error.message}", hint=error.hint) from error
        finally:
            with anyio.CancelScope(shield=True):
                await self.remove(directory)
        meter.finish(f"Built {recipe.name}", recipe.weight)
        return part

    async def remove(self, directory: Path) -> None:
        """Remove a directory: rename it at once, then delete it, even if other users of a namespace own its content."""
        hidden = self._root / f"{_BUILD}{secrets.token_hex(4)}-gone"
        if not await anyio.Path(directory).exists():
            return
        if not directory.name.startswith(_BUILD):
            await anyio.Path(directory).rename(hidden)
            directory = hidden
        root = self._tools.root if self._tools else ()
        await run([*root, "rm", "-rf", "--one-file-system", "--", str(directory)], deadline_s=_REMOVE_S)


def _open(root: Path) -> int:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            f"CASEMATE_DATA must be a writable directory, got {root}: {error.strerror}",
            hint="Set it to a directory that this user may write to",
        ) from error


def _try(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir(mode=0o755)


def _full(recipe: Recipe) -> HostExhausted:
    return HostExhausted(
        f"The host's disk is full: {recipe.name} could not be built", hint="Free space, then try again"
    )
