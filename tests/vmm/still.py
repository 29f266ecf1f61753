"""A fleet in which nothing boots: records, directories and processes as servers leave them, made by hand."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio

from storage.collection import Collection
from storage.ids import new_id
from storage.sqlite import SqliteDatabase
from vmm.fleet import Fleet
from vmm.hypervisor.base import Hypervisor, Memory
from vmm.hypervisor.process import ProcessRef
from vmm.images.catalogue import Catalogue
from vmm.machines.checkpoint import hardware_in
from vmm.machines.machine import MachineRecord
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import Quotas
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.store import SANDBOXES, SandboxStore
from vmm.volumes.store import VOLUMES, VolumeStore

HOST = "f" * 24
PARTS = ("vmlinux", "vmlinuz", "initramfs", "toolbox", "base")


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A fleet with its store and its places."""

    fleet: Fleet
    store: SandboxStore
    collection: Collection
    data: Path
    driver: Hypervisor

    @property
    def instances(self) -> Path:
        return self.data / "instances"

    def inner(self, path: str) -> Any:
        """A part of the fleet that it shows to nobody, such as `sandboxes._creator`."""
        return attrgetter(path)(self.fleet)


@asynccontextmanager
async def opened(
    data: Path, driver: Hypervisor, *, limits: OwnerLimits | None = None, **more: Any
) -> AsyncGenerator[Still]:
    """The fleet of a data directory; opened again, it is a server that was restarted."""
    async with stored(data) as collection, SqliteDatabase(data / "volumes.db") as database:
        store = SandboxStore(collection, host=HOST)
        options: dict[str, Any] = {
            "reserve": HostReserve(memory=1, machine=1, disk=1, overcommit=1000),
            "catalogue": Catalogue(data / "no-images"),
            **more,
        }
        async with Fleet(
            data=data,
            driver=driver,
            store=store,
            volumes=VolumeStore(await database.collection(VOLUMES), host=HOST),
            quotas=Quotas(limits or OwnerLimits()),
            **options,
        ) as fleet:
            yield Still(fleet=fleet, store=store, collection=collection, data=data, driver=driver)


@asynccontextmanager
async def stored(data: Path) -> AsyncGenerator[Collection]:
    """The store of a data directory without a fleet."""
    data.mkdir(exist_ok=True)
    async with SqliteDatabase(data / "store.db") as database:
        yield await database.collection(SANDBOXES)


async def kept(collection: Collection, state: State, owner: str = "a" * 24, **more: Any) -> Sandbox:
    """A record in a state."""
    new_one = Sandbox.new(new_id(), owner, SandboxSpec(name="box", image="minimal", mem=256), now_ms=1)
    sandbox = replace(new_one, state=state, **more)
    await SandboxStore(collection, host=HOST).insert(sandbox)
    return sandbox


def furnished(directory: Path, *, fingerprint: str, process: ProcessRef | None = None) -> Path:
    """A machine's directory with its record, its disk and its parts; of one that runs if a process is given."""
    (directory / "parts").mkdir(parents=True)
    for part in PARTS:
        (directory / "parts" / part).write_text(part)
    (directory / "disk").write_bytes(b"disk")
    (directory / "ram").write_bytes(b"ram")
    MachineRecord(
        process=process or ProcessRef(2**22, 1),
        port=1,
        memory=Memory.OWN,
        hardware=hardware_in(directory, cpu=1, mem=256, tsc_khz=0),
        nonce="nonce",
        secret=b"s" * 32,
        machine_id="0" * 32,
        hostname="box",
        fingerprint=fingerprint,
    ).write(directory)
    return directory


def asleep(directory: Path, *, fingerprint: str) -> Path:
    """The directory of a machine that sleeps."""
    furnished(directory, fingerprint=fingerprint)
    (directory / "asleep").mkdir()
    (directory / "asleep" / "state").write_bytes(b"state")
    return directory


def change(path: Path, **fields: object) -> None:
    """Change fields of a JSON file as a careless hand would; None takes one away."""
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


@contextmanager
def process_in(directory: Path) -> Generator[ProcessRef]:
    """A process that works in a directory, as a hypervisor does."""
    directory.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["sleep", "600"], cwd=directory) as running:
        try:
            found = ProcessRef.of(running.pid)
            assert found is not None
            yield found
        finally:
            running.kill()


@contextmanager
def no_more_files() -> Generator[None]:
    """Let this process open no file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def mounted(place: Path, options: str) -> Generator[Path]:
    """A small file system in memory; for root alone."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


async def until(*conditions: Any) -> None:
    """Wait until all of them hold."""
    with anyio.fail_after(30):
        while not all(condition() for condition in conditions):
            await anyio.sleep(0.01)
