"""What the drivers share for starting a program: names of its files, and cleaning up if it fails to start."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from ..errors import Unavailable
from .base import LOG
from .confinement import Confinement
from .process import ProcessRef

START_S = 60.0
"""Seconds that a program may take until it answers on its control socket. A program that ends is noticed at once, so
this limits one that hangs; on a busy host a healthy one may take many seconds."""

_HINT = "Run casemate doctor"
_MAY_NOT = "Let the server open /dev/kvm: sudo usermod -aG kvm $USER, then log in again"
_SHOWN = 300
_LINES = 3
_TAIL = 4096


@asynccontextmanager
async def ended_on_failure(process: ProcessRef, directory: Path, confinement: Confinement) -> AsyncGenerator[None]:
    """End a process if it fails to start in the block, and free its resources on the host.

    Raises:
        Unavailable: As raised in the block, with the last lines that the program printed.
    """
    try:
        yield
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await process.kill()
            await confinement.release(directory)
        if isinstance(error, Unavailable):
            said = await anyio.to_thread.run_sync(_last_lines, directory / LOG)
            hint = _MAY_NOT if _DENIED.search(said) else _HINT
            raise type(error)(f"{error.message}{said}", hint=error.hint or hint) from error
        raise


def named(path: Path, directory: Path) -> str:
    """Name a file for a program that works in a directory: relative if below, since it may not enter the parents."""
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def link(file: Path, name: Path) -> None:
    """Hard-link a file, or make a symbolic link if the file system cannot. Blocks on the disk.

    Raises:
        OSError: The name exists, or cannot be made.
    """
    try:
        name.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError:
        name.symlink_to(file.resolve())


def _last_lines(log: Path) -> str:
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it printed nothing, or replaced the file
        return ""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - _TAIL))
        lines = file.read(_TAIL).decode(errors="replace").split("\n")
    # The reason comes last, after lines about what was tried.
    said = "; ".join(words for line in lines[-_LINES - 1 :] if (words := line.strip()))
    return f": {said[-_SHOWN:]}" if said else ""


# Source of the messages: QEMU 7.2 and cloud-hypervisor v53.0, each without permission on the device.
_DENIED = re.compile(r"(kvm|hypervisor interface).*permission denied", re.IGNORECASE | re.DOTALL)
