"""Fleets whose machines are processes of this host, for what the tools and routes make of sandboxes.

All of a sandbox's life is the real fleet's. Its files are this host's, and so are its programs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import anyio

from storage.collection import Collection
from storage.ids import new_id
from storage.sqlite import SqliteDatabase
from tests.vmm.hypervisor.host_driver import HostDriver, guest_of, host_driver
from tests.vmm.images.tiny_recipes import tiny_catalogue
from tests.waiting import PATIENCE_S
from vmm.fleet import Fleet
from vmm.guest.link import GuestLink
from vmm.guest.vitality import GRACE, Grace
from vmm.images.catalogue import Catalogue
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine
from vmm.machines.template import template_key
from vmm.sandboxes.host_memory import read_memory
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import Quotas
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.store import SANDBOXES, SandboxStore
from vmm.volumes.store import VOLUMES, VolumeStore

SANDBOX = "0123456789abcdef01234567"
NAME = "box"
ALICE = "a" * 24
IMAGES = ("code", "minimal")
MOMENT_MS = 5000
"""The time of a host whose clock stands still, in epoch milliseconds."""
MANY = 1000

_HOST = "f" * 24
_SPEC = SandboxSpec(name=NAME, env={"FROM_SANDBOX": "yes"})


class OneHost(Fleet):
    """A fleet on which alice has one sandbox, `box`. Nobody else has any."""

    @property
    def box(self) -> Machine:
        """The machine of `box`, which must run."""
        machine = self._machines.get(SANDBOX)
        assert machine is not None
        return machine

    @contextmanager
    def stopped(self) -> Generator[None]:
        """For the length of a block the guest does not answer, which calls have to find out."""
        (guest,) = guest_of(self.box.running.process)
        os.kill(guest.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(guest.pid, signal.SIGCONT)

    def refuses(self, host: str, *, port: int = 443, protocol: str = "tcp") -> None:
        """Record that `box` was refused a connection, as its way to the network does."""
        log = self._gateway.log(SANDBOX)
        log.record(allowed=False, protocol=protocol, host=host, port=port, reason='policy "packages"')

    def allows(self, host: str, *, port: int = 443) -> None:
        """Record that `box` was allowed a connection."""
        self._gateway.log(SANDBOX).record(allowed=True, protocol="tcp", host=host, port=port)

    async def look(self) -> bool:
        """Whether the guest answers, asked as a call or the fleet's sweep would."""
        return await self.box.link.answers()

    async def kill(self, owner: str, ref: str) -> None:
        """End a sandbox's machine as a hypervisor that crashes does, and wait until the fleet knows."""
        machine = self._machines.get((await self.sandboxes.get(owner, ref)).id)
        assert machine is not None
        os.kill(machine.running.process.pid, signal.SIGKILL)
        with anyio.fail_after(PATIENCE_S):
            while (await self.sandboxes.get(owner, ref)).state is not State.KILLED:
                await anyio.sleep(0.01)

    async def add_sleeper(self, name: str) -> None:
        """Write the record of one more sandbox of alice's, which has no machine and never needs one."""
        new = Sandbox.new(new_id(), ALICE, replace(_SPEC, name=name), now_ms=MOMENT_MS)
        await self._store.insert(replace(new, state=State.ASLEEP))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What all hosts of a session share: the images, and the directory of templates, which has that of `box`."""

    catalogue: Catalogue
    templates: Path


class OpenHost(Protocol):
    """Opens a host on which alice has one sandbox; see `one_host`."""

    def __call__(
        self, *, grace: Grace = GRACE, room: int = MANY, clock: Callable[[], int] = ...
    ) -> AbstractAsyncContextManager[OneHost]: ...


async def prepare(directory: Path) -> Prepared:
    """Build the images and the template, in an empty directory."""
    catalogue = tiny_catalogue(directory / "images", directory / "log")
    for name in catalogue.names():
        await catalogue.ensure(name)
    prepared = Prepared(catalogue, directory / "templates")
    prepared.templates.mkdir()
    async with no_sandboxes(prepared, directory) as fleet:
        await fleet.prepare(_SPEC.image, cpu=_SPEC.cpu, mem=_SPEC.mem)
    return prepared


@asynccontextmanager
async def no_sandboxes(prepared: Prepared, directory: Path) -> AsyncGenerator[Fleet]:
    """A fleet on which nobody has a sandbox."""
    async with (
        host_driver(directory) as driver,
        _records(directory) as (collection, volumes),
        Fleet(**_parts(prepared, directory, driver, collection, volumes)) as fleet,
    ):
        yield fleet


@asynccontextmanager
async def one_host(
    prepared: Prepared,
    directory: Path,
    *,
    grace: Grace = GRACE,
    room: int = MANY,
    clock: Callable[[], int] = lambda: MOMENT_MS,
    within: Sequence[str] = (),
) -> AsyncGenerator[OneHost]:
    """Run a fleet with `box` for the length of a block.

    Args:
        prepared: The images and the template.
        directory: Where its files are, and the home of its commands.
        grace: How long calls wait for `box`, until it is restarted.
        room: How many sandboxes of the usual size the host has memory for.
        clock: The fleet's, in epoch milliseconds; it stands still if not given.
        within: See `HostDriver`.
    """
    async with host_driver(directory, within=within) as driver, _records(directory) as (collection, volumes):
        parts = _parts(prepared, directory, driver, collection, volumes)
        # A fleet gives ids of its own, and what tests say of a sandbox needs one known before: so an earlier server
        # has made it, and this one takes it over.
        await _make_box(prepared, parts["data"] / "instances", driver, parts["store"], clock())
        reserve = replace(parts["reserve"], overcommit=(room + 0.5) * _SPEC.mem / read_memory().total)
        async with OneHost(**parts | {"reserve": reserve}, clock=clock) as fleet:
            machine = fleet.box
            await machine.link.aclose()
            machine.link = GuestLink(lambda: driver.dial(machine.running), machine.secret, grace=grace)
            yield fleet


@asynccontextmanager
async def _records(directory: Path) -> AsyncGenerator[tuple[Collection, Collection]]:
    async with SqliteDatabase(directory / "records.db") as database:
        yield await database.collection(SANDBOXES), await database.collection(VOLUMES)


def _parts(
    prepared: Prepared, directory: Path, driver: HostDriver, collection: Collection, volumes: Collection
) -> dict[str, Any]:
    data = directory / "fleet"
    data.mkdir()
    (data / "templates").symlink_to(prepared.templates)
    return {
        "data": data,
        "driver": driver,
        "catalogue": prepared.catalogue,
        "store": SandboxStore(collection, host=_HOST),
        "volumes": VolumeStore(volumes, host=_HOST),
        "quotas": Quotas(OwnerLimits()),
        "reserve": HostReserve(memory=1, machine=1, disk=1),
    }


async def _make_box(
    prepared: Prepared, instances: Path, driver: HostDriver, records: SandboxStore, now_ms: int
) -> None:
    images = await prepared.catalogue.ensure(_SPEC.image)
    template = Checkpoint.load(prepared.templates / template_key(driver, images, _SPEC.cpu, _SPEC.mem))
    assert template is not None
    instances.mkdir(mode=0o700)
    machine = await Machine.clone(driver, template, instances / SANDBOX, hostname=NAME)
    await machine.link.aclose()
    made = Sandbox.new(SANDBOX, ALICE, _SPEC, now_ms=now_ms).moved(State.RUNNING, now_ms=now_ms)
    await records.insert(replace(made, memory=machine.running.memory.value))
