"""Prepares what a server is killed at, starts the next one after it, and looks whether all is in order."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from bench.fleet import OWNER, Host, said
from tests.crash.operations import PLACE, SPEC, VOLUME
from tests.crash.server import Fate, Nursery, Request
from tests.crash.serving import serving
from tests.crash.traces import HELD, OPENED, PASSING, of_sandboxes
from tests.waiting import PATIENCE_S, until
from vmm.fleet import Fleet
from vmm.hypervisor.cgroup import Cgroups
from vmm.hypervisor.process import orphans
from vmm.network.policy import Mode
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.volumes.volume import VolumeState

# Every second step keeps the whole test-suite short; 1 is all of them, which takes about a minute more.
_STRIDE = int(os.environ.get("CASEMATE_CRASH_STRIDE", "2"))
_AT_REST = {State.RUNNING, State.ASLEEP, State.KILLED, State.ERROR}
_DRAFTS = {".draft", ".partial"}

Subject = Callable[[Fleet], Awaitable[str]]
"""Makes or finds what an operation is about, and gives its id."""
Look = Callable[[Fleet, Fate], Awaitable[None]]
"""Looks at what a dead server's operation was about, in the fleet of the next one."""


class Rig:
    """A host whose server is killed again and again.

    Args:
        nursery: Where servers come from.
        data: The host's data directory.
        images: Where the images are.
        host: What its servers find on it.
        taps: Whether they make taps, in the network namespace of this thread.
    """

    def __init__(self, nursery: Nursery, data: Path, images: Path, host: Host, *, taps: bool = False) -> None:
        self._nursery = nursery
        self._data = data
        self._images = images
        self._host = host
        self._taps = taps

    async def kill_at_each_step(self, operation: str, look: Look, *, mapped: bool = False, **subjects: Subject) -> int:
        """Kill a server after the first step of an operation, another one after the second, until one survives.

        After each, start the next and look: first whether the host is in order, then `look`, then once more.

        Args:
            operation: A name in OPERATIONS.
            look: Told the fleet of the next server, and what became of the one before.
            mapped: Whether machines map what they are made from, rather than having memory files of their own.
            subjects: What the operation is about, by the names of its arguments.

        Returns:
            How many steps the operation has.
        """
        last = 1
        while not (fate := await self._killed(operation, last, subjects, mapped)).survived:
            await self._seen(fate, look)
            last += _STRIDE
        await self._seen(fate, look)
        # What the kernel forwards is taken back beside an operation, now before its end and now after it.
        assert self._taps or len(fate.steps) >= last - _STRIDE, (last, fate.steps)
        return len(fate.steps)

    async def box(self, fleet: Fleet) -> str:
        """A sandbox that runs, with something in memory and on disk that its owner needs; the one that is there."""
        for sandbox in (await fleet.sandboxes.list(OWNER)).items:
            if sandbox.name == SPEC.name and sandbox.state in {State.RUNNING, State.ASLEEP}:
                return (await fleet.lifecycle.wake(OWNER, sandbox.id)).id
        sandbox = await fleet.sandboxes.create(OWNER, SPEC)
        await said(fleet, sandbox.id, "echo memory > /dev/shm/kept; echo disk > /root/kept; sync")
        return sandbox.id

    async def fresh_box(self, fleet: Fleet) -> str:
        """The same, and it has never slept: its memory is the template's, but for what it wrote to."""
        for sandbox in (await fleet.sandboxes.list(OWNER)).items:
            await fleet.sandboxes.delete(OWNER, sandbox.id)
        return await self.box(fleet)

    async def sleeper(self, fleet: Fleet) -> str:
        """The same, asleep."""
        return (await fleet.lifecycle.sleep(OWNER, await self.box(fleet))).id

    async def fresh_sleeper(self, fleet: Fleet) -> str:
        """The same, asleep for the first time."""
        return (await fleet.lifecycle.sleep(OWNER, await self.fresh_box(fleet))).id

    async def kept(self, fleet: Fleet) -> str:
        """A snapshot of the box, which has changed since, in memory and on disk."""
        box = await self.box(fleet)
        found = [snapshot.id for snapshot in await fleet.snapshots.list(OWNER) if snapshot.name == SPEC.name]
        if not found:
            found = [(await fleet.snapshots.take(OWNER, box, name=SPEC.name)).id]
        await said(fleet, box, "echo later > /dev/shm/later; echo later > /root/later; sync")
        return found[0]

    async def free_volume(self, fleet: Fleet) -> str:
        """A volume with something in it, which no sandbox has."""
        box = await self.box_with_volume(fleet)
        return (await fleet.volumes.detach(OWNER, box, VOLUME)).id

    async def box_with_volume(self, fleet: Fleet) -> str:
        """The box, with a volume that has something in it."""
        box = await self.box(fleet)
        if all(volume.name != VOLUME for volume in await fleet.volumes.list(OWNER)):
            await fleet.volumes.create(OWNER, VOLUME, size=64)
        if not await fleet.volumes.list(OWNER, sandbox=box):
            await fleet.volumes.attach(OWNER, box, VOLUME, PLACE)
        await said(fleet, box, f"echo volume > {PLACE}/kept; sync")
        return box

    async def _killed(self, operation: str, last: int, subjects: dict[str, Subject], mapped: bool) -> Fate:
        async with serving(self._data, self._images, self._host, own_memory=not mapped, taps=self._taps) as fleet:
            await fleet.prepare(SPEC.image, cpu=SPEC.cpu, mem=SPEC.mem)
            found = {name: await subject(fleet) for name, subject in subjects.items()}
        log = self._data.parent / f"{operation}-{last}.log"
        request = Request(
            data=str(self._data),
            images=str(self._images),
            operation=operation,
            subject=found,
            own_memory=not mapped,
            taps=self._taps,
            last=last,
            log=str(log),
        )
        return await self._nursery.grant(request)

    async def _seen(self, fate: Fate, look: Look) -> None:
        try:
            async with serving(self._data, self._images, self._host, taps=self._taps) as fleet:
                await self._in_order(fleet)
                await look(fleet, fate)
                await self._in_order(fleet)
        except BaseException as error:
            how = "lived to the end" if fate.survived else "was killed"
            error.add_note(f"The server {how} after: {', '.join(fate.steps)}\n{fate.log}")
            raise

    async def _in_order(self, fleet: Fleet) -> None:
        """Whether each record has its machine and its files, and each machine and file its record."""
        states = {state for state, usage in (await fleet.sandboxes.survey()).items() if usage.sandboxes}
        assert states <= _AT_REST, states
        sandboxes = (await fleet.sandboxes.list(OWNER, limit=100)).items
        instances = self._data / "instances"
        directories = {path.name for path in instances.iterdir()}
        assert directories == {sandbox.machine for sandbox in sandboxes}, (
            directories,
            sandboxes,
        )
        runs = {path.name: len(processes) for path, processes in orphans(instances).items()}
        running = [sandbox.machine for sandbox in sandboxes if sandbox.state is State.RUNNING]
        assert runs == dict.fromkeys(running, 1), (runs, sandboxes)
        cgroups = self._host.confinement.cgroups
        if isinstance(cgroups, Cgroups):
            confined = {path.name for path in (cgroups.base / "machines").iterdir() if path.is_dir()}
            assert confined == runs.keys(), (confined, runs)
        elsewhere = [path for path in orphans(self._data) if path.parent != instances.resolve()]
        assert elsewhere == [], elsewhere
        listed = {snapshot.id for snapshot in await fleet.snapshots.list(OWNER)}
        snapshots = {path.name for path in (self._data / "snapshots").iterdir()}
        assert snapshots == listed, (snapshots, listed)
        volumes = await fleet.volumes.list(OWNER)
        assert {volume.state for volume in volumes} <= {VolumeState.READY}, volumes
        files = {path.name for path in (self._data / "volumes").iterdir()}
        assert files == {f"{volume.id}.img" for volume in volumes}, (files, volumes)
        for sandbox in sandboxes:
            if sandbox.state is State.RUNNING:
                assert await volumes_of(fleet, sandbox) == {
                    volume.serial for volume in volumes if sandbox.id in volume.attached
                }, (sandbox, volumes)
        left = [path for path in self._data.rglob("*") if path.name.startswith(".") or path.suffix in _DRAFTS]
        assert left == [], left
        for sandbox in sandboxes:
            assert sandbox.reason or sandbox.state in {State.RUNNING, State.ASLEEP}, sandbox
        if self._taps:
            await _network_in_order(fleet, sandboxes)


async def _network_in_order(fleet: Fleet, sandboxes: Sequence[Sandbox]) -> None:
    """Whether the kernel has what each sandbox that runs needs, and nothing of another; it may take a moment."""
    running = [sandbox for sandbox in sandboxes if sandbox.state is State.RUNNING]
    found: dict[str, set[str]] = {}
    expected: dict[str, set[str]] = {}

    async def agree() -> bool:
        networks = [await fleet.network.get(OWNER, sandbox.id) for sandbox in running]
        addresses = {str(network.address) for network in networks}
        expected.update(dict.fromkeys(HELD, addresses))
        expected[OPENED] = {str(network.address) for network in networks if network.policy.mode is Mode.INTERNET}
        found.update(of_sandboxes())
        passing = all(found[kind] <= addresses for kind in PASSING)
        return len(addresses) == len(running) and passing and all(found[kind] == expected[kind] for kind in expected)

    try:
        await until(agree)
    except TimeoutError as error:
        raise AssertionError((expected, found)) from error


async def works(fleet: Fleet, sandbox: Sandbox) -> None:
    """Whether a sandbox runs commands as a machine of its own; one that sleeps wakes."""
    assert await _told(fleet, sandbox, "hostname") == [sandbox.name]


async def is_whole(fleet: Fleet, sandbox: Sandbox) -> None:
    """Whether a sandbox has what its owner needs, in memory and on disk."""
    line = "hostname; cat /dev/shm/kept /root/kept"
    assert await _told(fleet, sandbox, line) == [sandbox.name, "memory", "disk"]


async def volumes_of(fleet: Fleet, sandbox: Sandbox) -> frozenset[str]:
    """The serial numbers of the volumes that a running sandbox's machine has."""
    machine = fleet._machines.get(sandbox.id)  # pyright: ignore[reportPrivateUsage]
    assert machine is not None
    return await machine.driver.plugged(machine.running)


async def has_its_volume(fleet: Fleet, sandbox: Sandbox) -> None:
    """Whether a sandbox has what its owner needs on the volume."""
    assert await _told(fleet, sandbox, f"cat {PLACE}/kept") == ["volume"]


async def has_its_files(fleet: Fleet, sandbox: Sandbox) -> None:
    """Whether a sandbox has what its owner needs on disk."""
    assert await _told(fleet, sandbox, "hostname; cat /root/kept") == [sandbox.name, "disk"]


async def changed_since(fleet: Fleet, sandbox: Sandbox) -> bool:
    """Whether a sandbox is what it was after `Rig.kept`, rather than what was kept then; never a mixture."""
    later = await _told(fleet, sandbox, "cat /dev/shm/later /root/later")
    assert later in ([], ["later", "later"])
    return bool(later)


async def _told(fleet: Fleet, sandbox: Sandbox, line: str) -> list[str]:
    assert sandbox.state in {State.RUNNING, State.ASLEEP}, sandbox
    with anyio.fail_after(PATIENCE_S):
        return (await said(fleet, sandbox.id, f"{line} 2>/dev/null || true")).splitlines()
