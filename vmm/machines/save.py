"""Saves a machine's moment while it lives: it stands still for as long as the copies take, and goes on."""

from __future__ import annotations

from pathlib import Path

import anyio

from ..disk.copy import copy_sparse
from ..disk.os_errors import translate_os_errors
from ..errors import LinkError
from .checkpoint import DISK, RAM, Checkpoint, link_parts
from .machine import Machine

_CLOCK_S = 5


async def save(machine: Machine, target: Path) -> Checkpoint:
    """Save a running machine's moment into an existing empty directory. Its commands and open streams go on.

    Raises:
        HostExhausted: The host's disk is full, or it lacks something else; the machine goes on.
        Unavailable: The hypervisor could not save it; the machine goes on, if it lives.
    """
    with translate_os_errors("a saved machine", target):
        checkpoint = await _save(machine, target)
    await _set_clock(machine)
    return checkpoint


async def _save(machine: Machine, target: Path) -> Checkpoint:
    await machine.link.drop_connections()
    secret = machine.secret
    try:
        await machine.driver.save(machine.running, target)
        if machine.running.memory.in_file:
            await copy_sparse(machine.ram, target / RAM)
        await copy_sparse(machine.disk, target / DISK)
    finally:
        with anyio.CancelScope(shield=True):
            await machine.driver.resume(machine.running)
    hardware = await anyio.to_thread.run_sync(link_parts, machine.hardware, target)
    await machine.driver.settle(target, hardware, disk=target / DISK)
    checkpoint = Checkpoint(
        directory=target,
        hardware=hardware,
        secret=secret,
        nonce=machine.nonce,
        fingerprint=machine.fingerprint,
    )
    await anyio.to_thread.run_sync(checkpoint.write)
    return checkpoint


async def _set_clock(machine: Machine) -> None:
    """Make up for the time that the guest stood still. One that does not answer has worse troubles, told elsewhere."""
    with anyio.move_on_after(_CLOCK_S):
        try:
            await machine.link.set_clock()
        except LinkError:
            return
