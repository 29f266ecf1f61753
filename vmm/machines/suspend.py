"""Puts a machine to sleep in its directory and wakes it there: from then on its memory is a file of its own.

While it sleeps, `asleep` holds the state of the devices, and the memory if that was shared before. The directory gets
this name when it is complete and loses it before the guest runs again, so that at any moment either the process or
`asleep` is valid.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import anyio

from ..disk.copy import copy_sparse, release, reserve
from ..disk.os_errors import translate_os_errors
from ..errors import LinkError, LinkTimeout, SandboxLost
from ..hypervisor.base import Hypervisor, Ram
from .checkpoint import DISK, RAM, STATE, Checkpoint, check_driver, link_parts
from .machine import Machine, MachineRecord

_ASLEEP = "asleep"
_DRAFT = "asleep.draft"
_MAPPED = "mapped"
_RECONNECTS = 4


def is_asleep(directory: Path) -> bool:
    """Tell whether a complete machine sleeps here."""
    return (directory / _ASLEEP).is_dir()


def forget_sleep(directory: Path) -> None:
    """Remove what a sleep, complete or interrupted, left. Blocks on the disk.

    Raises:
        Unavailable: The host refuses it; the machine's sleep is as it was.
    """
    remove_leftovers(directory)
    with translate_os_errors("ending a sleep", directory):
        if is_asleep(directory):
            # In one step, so that no incomplete sleep counts as one.
            (directory / _ASLEEP).rename(directory / _DRAFT)
    remove_leftovers(directory)


def remove_leftovers(directory: Path) -> None:
    """Remove what interrupted steps left in a machine's directory. Blocks on the disk.

    Ignores what cannot be removed: the next step that needs its place reports it.
    """
    shutil.rmtree(directory / _DRAFT, ignore_errors=True)
    with suppress(OSError):
        for draft in directory.rglob("*.draft"):
            draft.unlink(missing_ok=True)


async def fall_asleep(machine: Machine) -> None:
    """Save a running machine in its own directory and end it.

    Raises:
        HostExhausted: The host's disk is full, or it lacks something else; the machine keeps running.
        Unavailable: The hypervisor could not save it; the machine keeps running, if it is alive.
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
        with suppress(OSError):  # it is asleep: the rest only takes disk space
            await anyio.Path(machine.directory / _MAPPED).unlink(missing_ok=True)
            await release(machine.ram)


async def wake(driver: Hypervisor, directory: Path) -> Machine:
    """Wake the machine that sleeps in a directory; it is as it was, with its clock set.

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
    # Once the guest runs, what was saved is outdated: from here on there is no way back.
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
    """Set the clock of a guest that slept, and have it prove its identity.

    Raises:
        Unavailable: It could not.
        LinkError: It does not answer.
    """
    for attempt in range(_RECONNECTS):
        try:
            await machine.assign_identity(machine.hostname, machine.machine_id, secret=machine.secret)
        except LinkTimeout:
            raise
        except LinkError:
            # The guest still has connections from before its sleep, and may end a new one for one of them. The same
            # identity again changes nothing.
            if attempt + 1 == _RECONNECTS:
                raise
        else:
            return


async def copy_sleeper(directory: Path, target: Path) -> Checkpoint:
    """Save a checkpoint of the machine that sleeps in a directory into an existing empty one. It stays asleep.

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
