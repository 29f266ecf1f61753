"""What the drivers share when they bring a program up: its control socket, and its end if it does not come up."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import UNIXSocketStream

from ..errors import Unavailable
from .base import LOG
from .process import ProcessRef

_SHOWN = 300


@asynccontextmanager
async def ended_on_failure(process: ProcessRef, directory: Path) -> AsyncGenerator[None]:
    """End a process that could not be brought up in the block.

    Raises:
        Unavailable: As raised in the block, with the last line that the program printed.
    """
    try:
        yield
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await process.kill()
        if isinstance(error, Unavailable):
            raise type(error)(f"{error.message}{_last_line(directory / LOG)}", hint=error.hint) from error
        raise


async def connect_unix(socket: Path) -> UNIXSocketStream:
    """Connect to a socket, however deep it lies: its address holds 107 bytes, and data directories may be deeper.

    Raises:
        OSError: Nobody listens there.
    """
    directory = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        return await anyio.connect_unix(f"/proc/self/fd/{directory}/{socket.name}")
    finally:
        os.close(directory)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f": {lines[-1][:_SHOWN]}" if lines else ""
