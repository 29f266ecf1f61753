"""Three ways to back a machine's memory with files, compared: `python -m bench.backing [RUNS] [IMAGE] [MIB]`.

    map   a private map of the saved file, always: each sleep writes the memory out, each wake maps that file
    own   a file of its own from the start: a copy at each create and fork, nothing to write at a sleep
    mix   a private map until the first sleep, a file of its own from then on

A fork saves its parent's moment and makes children of it in the same way. MachineRegistry alone: no records, no fleet.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from bench.figures import memory, on_disk, p50, table, timed, written
from bench.fleet import images, quiet, scratch, this_host
from storage.ids import new_id
from vmm.guest.values import Command
from vmm.hypervisor.base import Hypervisor, Ram
from vmm.images.catalogue import Catalogue
from vmm.machines import suspend
from vmm.machines import template as building
from vmm.machines.checkpoint import DISK, RAM, STATE, Checkpoint
from vmm.machines.machine import Machine, MachineRecord, linked, remove
from vmm.machines.save import save

_MAP, _OWN, _MIX = "map", "own", "mix"
_WAYS = (_MAP, _OWN, _MIX)
_MANY = 10
_IDLE = 5
_SETTLE_S = 3.0
_WAIT_MS = 60_000
_AT_ONCE = os.cpu_count() or 1


class Bench:
    """Machines in one of the ways, made from one template.

    Args:
        driver: Their hypervisor.
        template: What they are made from.
        root: Where they have their directories.
        way: One of the three.
    """

    def __init__(self, driver: Hypervisor, template: Checkpoint, root: Path, way: str) -> None:
        self._driver = driver
        self._template = template
        self._root = root
        self.way = way
        self.times: dict[str, list[float]] = defaultdict(list)
        self.sizes: dict[str, str] = {}

    async def warm_up(self) -> None:
        """Make one machine, for the first of all reads files that later ones find in memory."""
        machine = await self._clone(self._template)
        await _exec(machine)
        await _end(machine)

    async def life(self) -> None:
        """Take the times of one machine's life."""
        with timed(self.times["create"]):
            machine = await self._clone(self._template)
        await _exec(machine)
        await self._fork(machine, 1, "fork of 1")
        await self._fork(machine, _MANY, f"fork of {_MANY}")
        for which in ("first", "later"):
            with timed(self.times[f"sleep, {which}"]):
                await suspend.fall_asleep(machine)
            with timed(self.times[f"wake, {which}"]):
                machine = await self._wake(machine.directory)
            await _exec(machine)
        await self._fork(machine, 1, "fork of 1, after a sleep")
        await _end(machine)

    async def room(self) -> None:
        """Take what idle machines need of memory and disk."""
        before = await run_sync(written, self._root)
        machines = [await self._clone(self._template) for _ in range(_IDLE)]
        await _each(machines, _exec)
        await anyio.sleep(_SETTLE_S)
        self._note("memory when idle, proportional", _proportional(machines))
        self._note("its files on disk", _files(machines))
        before = await self._written("written to disk until then", before)
        await _each(machines, suspend.fall_asleep)
        self._note("its files on disk, asleep", _files(machines))
        before = await self._written("written to disk by the sleep", before)
        machines = [await self._wake(machine.directory) for machine in machines]
        await _each(machines, _exec)
        await anyio.sleep(_SETTLE_S)
        self._note("memory when idle after a wake, proportional", _proportional(machines))
        before = await self._written("written to disk by the wake", before)
        await _each(machines, _end)

    async def _clone(self, saved: Checkpoint) -> Machine:
        directory = self._root / new_id()
        return await Machine.clone(self._driver, saved, directory, hostname="box", own=self.way == _OWN)

    async def _wake(self, directory: Path) -> Machine:
        if self.way != _MAP:
            return await suspend.wake(self._driver, directory)
        record = MachineRecord.read(directory)
        assert record is not None
        asleep, mapped = directory / "asleep", directory / "mapped"
        (asleep / RAM).replace(mapped)
        ram = Ram(path=mapped, private=True)
        running = await self._driver.restore(
            directory, record.hardware, ram=ram, disk=directory / DISK, state=asleep / STATE
        )
        machine = Machine(
            driver=self._driver,
            running=running,
            link=linked(self._driver, running, record.secret),
            hardware=record.hardware,
            nonce=record.nonce,
            secret=record.secret,
            fingerprint=record.fingerprint,
            machine_id=record.machine_id,
            hostname=record.hostname,
        )
        await machine.save_record()
        await run_sync(suspend.forget_sleep, directory)
        await suspend.reconnect(machine)
        return machine

    async def _fork(self, parent: Machine, count: int, what: str) -> None:
        base = self._root / f"base-{new_id()}"
        children: list[Machine] = []
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def child(saved: Checkpoint) -> None:
            async with slots:
                children.append(await self._clone(saved))

        with timed(self.times[what]):
            base.mkdir()
            saved = await save(parent, base)
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(child, saved)
            await remove(base)
        await _each(children, _end)

    def _note(self, what: str, mib: float) -> None:
        self.sizes[what] = f"{mib:.1f} MiB"

    async def _written(self, what: str, before: float | None) -> float | None:
        now = await run_sync(written, self._root)
        if now is not None and before is not None:
            self._note(what, (now - before) / _IDLE)
        return now


async def main(runs: int, image: str, mem: int) -> None:
    quiet()
    driver = (await this_host()).driver
    found = await Catalogue(images()).find(image)
    assert found is not None
    async with scratch() as place:
        # The fleet's own order of directories, so that what is left running is found.
        rate = building.guess_tsc_khz()
        template = await building.build(driver, found, place, "template", cpu=1, mem=mem, tsc_khz=rate)
        benches = [Bench(driver, template, place, way) for way in _WAYS]
        for bench in benches:
            await bench.warm_up()
        for _ in range(runs):
            for bench in benches:  # in turn, so that a host that slows down slows down all
                await bench.life()
        for bench in benches:
            await bench.room()
    rows: list[Sequence[str]] = [
        (what, *(f"{p50(bench.times[what]):.3f} s" for bench in benches)) for what in benches[0].times
    ]
    rows += [(what, *(bench.sizes.get(what, "") for bench in benches)) for what in benches[0].sizes]
    print(table((f"{driver.name} ({driver.accelerator}), p50 of {runs}, each machine", *_WAYS), rows))


async def _exec(machine: Machine) -> None:
    await machine.link.exec(Command(shell="true"), wait_ms=_WAIT_MS)


async def _end(machine: Machine) -> None:
    await machine.stop()
    await remove(machine.directory)


async def _each(machines: Sequence[Machine], work: Callable[[Machine], Awaitable[None]]) -> None:
    for machine in machines:
        await work(machine)


def _proportional(machines: Sequence[Machine]) -> float:
    return p50(memory(machine.running.process.pid)["proportional"] for machine in machines)


def _files(machines: Sequence[Machine]) -> float:
    """What is a machine's own: its memory, its disk, and what it sleeps in."""
    own = [machine.directory / name for machine in machines for name in (RAM, DISK, "asleep") if _there(machine, name)]
    return on_disk(*own) / len(machines)


def _there(machine: Machine, name: str) -> bool:
    return (machine.directory / name).exists()


if __name__ == "__main__":
    given = sys.argv[1:]
    anyio.run(
        main,
        int(given[0]) if given else 3,
        given[1] if len(given) > 1 else "minimal",
        int(given[2]) if len(given) > 2 else 256,
    )
