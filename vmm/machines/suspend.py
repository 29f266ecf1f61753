"""Puts a machine to sleep in its directory and wakes it there: its memory is a file of its own from then on.

While it sleeps, `asleep` holds the devices' state, and the memory if that was shared until then. The directory gets its
name when it is whole and loses it before the guest runs again, so at any moment either the process is good or `asleep`.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import anyio

from ..disk.copy import copy_sparse, release, reserve
from ..disk.os_errors import translate_os_errors
from ..errors import SandboxLost
from ..hypervisor.base import Hypervisor, Ram
from .checkpoint import DISK, RAM, STATE, Checkpoint, check_driver, link_parts
from .machine import Machine, MachineRecord

_ASLEEP = "asleep"
_DRAFT = "asleep.draft"
_MAPPED = "mapped"


def is_asleep(directory: Path) -> bool:
    """Whether a machine sleeps here, whole, to be woken."""
    return (directory / _ASLEEP).is_dir()


def forget_sleep(directory: Path) -> None:
    """Remove what a machine's sleep, or one that was broken off, left. Blocks for as long as a disk does.

    Raises:
        Unavailable: The host refuses it; the machine's sleep is as it was.
    """
    remove_leftovers(directory)
    with translate_os_errors("the end of a sleep", directory):
        if is_asleep(directory):
            # In one step: half a sleep is none.
            (directory / _ASLEEP).rename(directory / _DRAFT)
    remove_leftovers(directory)


def remove_leftovers(directory: Path) -> None:
    """Remove what steps that were broken off left in a machine's directory. Blocks for as long as a disk does.

    What does not go is in nobody's way but the next step's of its kind, which says so.
    """
    shutil.rmtree(directory / _DRAFT, ignore_errors=True)
    with suppress(OSError):
        for draft in directory.rglob("*.draft"):
            draft.unlink(missing_ok=True)


async def fall_asleep(machine: Machine) -> None:
    """Save a running machine in its own directory and end it.

    Raises:
        HostExhausted: The host's disk is full, or it lacks something else; the machine runs on.
        Unavailable: The hypervisor could not save it; the machine runs on, if it lives.
    """
    with translate_os_errors("a machine's memory", machine.directory):
        await _fall_asleep(machine)


async def _fall_asleep(machine: Machine) -> None:
    draft = machine.directory / _DRAFT
    await machine.link.drop_connections()
    try:
        await anyio.to_thread.run_sync(forget_sleep, machine.directory)
        await anyio.Path(draft).mkdir(mode=0o700)
        hardware = await anyio.to_thread.run_sync(link_parts, machine.hardware, draft)
        await machine.driver.save(machine.running, draft)
        await machine.driver.settle(draft, hardware, disk=machine.disk)
        await anyio.Path(draft).rename(machine.directory / _ASLEEP)
    except BaseException:
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(forget_sleep, machine.directory)
            finally:
                await machine.driver.resume(machine.running)
        raise
    with anyio.CancelScope(shield=True):
        await machine.stop()
        with suppress(OSError):  # it sleeps: what is left takes room, no more
            await anyio.Path(machine.directory / _MAPPED).unlink(missing_ok=True)
            await release(machine.ram)


async def wake(driver: Hypervisor, directory: Path) -> Machine:
    """Wake the machine that sleeps in a directory; it is the same as before, with the time set.

    Raises:
        Conflict: Another hypervisor put it to sleep; it still sleeps.
        HostExhausted: The host's disk is full, or it lacks something else; it still sleeps.
        Unavailable: The hypervisor failed, or the record is damaged; it still sleeps.
        SandboxLost: Nothing sleeps here.
    """
    with translate_os_errors("the memory of a sandbox that wakes", directory):
        return await _wake(driver, directory)


async def _wake(driver: Hypervisor, directory: Path) -> Machine:
    record = await anyio.to_thread.run_sync(MachineRecord.read, directory)
    if record is None or not is_asleep(directory):
        raise SandboxLost("Its saved memory is gone", hint="Start it from its disk, or delete it")
    asleep = directory / _ASLEEP
    check_driver(record.fingerprint, driver)
    if await anyio.Path(asleep / RAM).exists():
        await anyio.Path(asleep / RAM).replace(directory / RAM)
    await reserve(directory / RAM)
    running = await driver.restore(
        directory,
        record.hardware,
        ram=Ram(path=directory / RAM, private=False),
        disk=directory / DISK,
        state=asleep / STATE,
        run=False,
    )
    machine = Machine.recorded(driver, running, record)
    # What was saved is not true any more as soon as the guest runs: from here on there is no way back.
    with anyio.CancelScope(shield=True):
        try:
            await machine.save_record()
            await anyio.to_thread.run_sync(forget_sleep, directory)
            await driver.resume(running)
            await reconnect(machine)
        except BaseException:
            await machine.stop()
            raise
    return machine


async def reconnect(machine: Machine) -> None:
    """Tell a guest that slept what time it is, and have it prove that it is who it was.

    Raises:
        Unavailable: It could not.
        LinkError: It does not answer.
    """
    await machine.assign_identity(machine.hostname, machine.machine_id, secret=machine.secret)


async def copy_sleeper(directory: Path, target: Path) -> Checkpoint:
    """Make a saved moment of the machine that sleeps in a directory, in an existing empty one. It sleeps on.

    Raises:
        HostExhausted: The host's disk is full, or it lacks something else.
        Unavailable: The record is damaged, or the host refuses it.
        SandboxLost: Nothing sleeps here.
    """
    with translate_os_errors("a copy of a sandbox that sleeps", target):
        return await _copy_sleeper(directory, target)


async def _copy_sleeper(directory: Path, target: Path) -> Checkpoint:
    record = await anyio.to_thread.run_sync(MachineRecord.read, directory)
    if record is None or not is_asleep(directory):
        raise SandboxLost("Its saved memory is gone", hint="Start it from its disk, or delete it")
    asleep = directory / _ASLEEP
    shared = await anyio.Path(asleep / RAM).exists()
    await copy_sparse(asleep / RAM if shared else directory / RAM, target / RAM)
    await copy_sparse(directory / DISK, target / DISK)
    await anyio.to_thread.run_sync(_copy_state, asleep / STATE, target / STATE)
    hardware = await anyio.to_thread.run_sync(link_parts, record.hardware, target)
    checkpoint = Checkpoint(
        directory=target,
        hardware=hardware,
        secret=record.secret,
        nonce=record.nonce,
        fingerprint=record.fingerprint,
    )
    await anyio.to_thread.run_sync(checkpoint.write)
    return checkpoint


def _copy_state(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
