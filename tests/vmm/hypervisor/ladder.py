"""Helpers for machines of each origin: make them, save them, run commands in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from vmm.guest.values import Command
from vmm.hypervisor.base import Hypervisor
from vmm.images.catalogue import ImageSet
from vmm.machines import save
from vmm.machines import template as building
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine

SIZE = {"cpu": 1, "mem": 256}


@asynccontextmanager
async def cold(driver: Hypervisor, images: ImageSet, place: Path) -> AsyncGenerator[Machine]:
    """Boot a machine from its kernel."""
    place.mkdir()
    machine = await building.boot_image(driver, images, place, **SIZE, tsc_khz=building.guess_tsc_khz())
    try:
        yield machine
    finally:
        await machine.stop()


@asynccontextmanager
async def cloned(driver: Hypervisor, origin: Checkpoint, place: Path, *, own: bool = False) -> AsyncGenerator[Machine]:
    """Restore a machine as a copy of another one; its host name is that of its directory."""
    machine = await Machine.clone(driver, origin, place, hostname=place.name, own=own)
    try:
        yield machine
    finally:
        await machine.stop()


async def saved(machine: Machine, target: Path) -> Checkpoint:
    """Save a machine, which continues afterwards."""
    target.mkdir(mode=0o700)
    return await save.save(machine, target)


async def said(machine: Machine, line: str) -> str:
    """Return the output of a shell command in the guest."""
    outcome = await machine.link.exec(Command(shell=line), wait_ms=60_000)
    assert outcome.exit_code == 0, outcome.stderr.data()
    return outcome.stdout.data().decode().strip()
