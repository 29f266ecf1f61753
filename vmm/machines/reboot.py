"""Starts a machine again from its disk, whatever happened to the one before. Needs nothing from its guest.

The machine's memory, its programs, and what its guest had not written to the disk are lost.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio

from ..disk.copy import reserve
from ..disk.os_errors import translate_os_errors
from ..errors import CasemateError
from ..guest.values import Command
from ..hypervisor.base import Hardware, Hypervisor
from . import boot, suspend
from .machine import Machine
from .registry import MachineRegistry
from .template import guess_tsc_khz

_FLUSH_S = 2


async def flush(machine: Machine) -> None:
    """Have a guest write its cached data to the disk, if it does so within two seconds."""
    if machine.link.silent_s:
        return
    with anyio.move_on_after(_FLUSH_S):
        try:
            await machine.link.exec(Command(argv=("sync",)), wait_ms=_FLUSH_S * 1000)
        except CasemateError:
            return  # the guest is restarted because something is wrong with it


async def flush_sleeper(driver: Hypervisor, directory: Path) -> None:
    """Wake what sleeps in a directory, if possible, so that it writes its cached data to the disk; then end it."""
    if not suspend.is_asleep(directory):
        return
    try:
        machine = await suspend.wake(driver, directory)
    except (CasemateError, OSError):
        return  # its cached data is lost
    try:
        if machine.hardware.volumes:
            # They stand still if it slept without its volumes.
            await machine.link.resume_programs()
        await flush(machine)
    except CasemateError:
        return  # its cached data is lost
    finally:
        with anyio.CancelScope(shield=True):
            await machine.stop()


async def boot_again(
    driver: Hypervisor, machines: MachineRegistry, name: str, hardware: Hardware, machine_id: str, *, hostname: str
) -> Machine:
    """Boot a machine from the disk in its directory, with its earlier identity.

    Whether it has a network device is decided anew: it has one if the driver makes taps, and its agent can use one.

    Args:
        driver: The hypervisor.
        machines: The machines of this host; none of them may run in this directory.
        name: The machine's directory.
        hardware: The parts to make it from.
        machine_id: The guest's earlier machine id; empty for a new one.
        hostname: The guest's name.

    Raises:
        HostExhausted: The host's disk is full.
        Unavailable: It did not start.
        LinkError: It started, but no longer answers.
        TimeoutError: The kernel did not end what ran in the directory.
    """
    directory = machines.directory(name)
    await machines.end_orphans(name)
    await anyio.to_thread.run_sync(suspend.forget_sleep, directory)
    emulated = driver.accelerator == "tcg"
    tsc_khz = (hardware.tsc_khz or guess_tsc_khz()) if emulated else 0
    nic = hardware.takes_nic and driver.nics is not None
    with translate_os_errors("starting a machine from its disk", directory):
        machine = await boot.boot(driver, replace(hardware, tsc_khz=tsc_khz, nic=nic), directory)
    try:
        with translate_os_errors("a machine's memory", directory):
            await reserve(machine.ram)
        await machine.assign_identity(hostname, machine_id)
        await machine.save_record()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await machine.stop()
        raise
    return machine
