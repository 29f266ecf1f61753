"""What a machine's network device is connected to, for all drivers: a tap of the host's network, or one to nowhere."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from ..errors import Conflict
from .base import Hardware, Running
from .blind_tap import blind_tap
from .nic import Nic, Nics


@asynccontextmanager
async def wired(
    nics: Nics | None, directory: Path, hardware: Hardware
) -> AsyncGenerator[tuple[Nic | None, int | None]]:
    """Make the host's end of a machine's device, for the program that is started in the block.

    Args:
        nics: Makes taps; None for one that leads nowhere.
        directory: The machine's directory.
        hardware: The parts of the machine.

    Returns:
        What the guest is told, if the device leads anywhere, and the tap's descriptor, open for the length of the
        block, if there is a device. If the block raises, everything is undone.

    Raises:
        Conflict: The server may not make a tap.
    """
    if not hardware.nic:
        yield None, None
    elif nics is None:
        descriptor = await anyio.to_thread.run_sync(blind_tap)
        try:
            yield None, descriptor
        finally:
            os.close(descriptor)
    else:
        async with nics.attached(directory) as (nic, descriptor):
            yield nic, descriptor


async def adopt_wire(nics: Nics | None, machine: Running) -> None:
    """Take over the tap of a machine that an earlier server started; a no-op if it has none.

    Raises:
        Conflict: This server makes no taps, or its network has other addresses.
    """
    if machine.nic is None:
        return
    if nics is None:
        raise Conflict(f"The machine has the address {machine.nic.address} of a network that this server does not have")
    await nics.adopt(machine.directory, machine.nic)


async def release_wire(nics: Nics | None, directory: Path) -> None:
    """Free the address of a machine whose process has ended. May be repeated."""
    if nics is not None:
        await nics.release(directory)
