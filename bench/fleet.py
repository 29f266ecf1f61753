"""A fleet in the process that measures, on a data directory of its own: no server and no wire around it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import structlog

from storage.sqlite import SqliteDatabase
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.confinement import Confinement
from vmm.hypervisor.detect import choose, kvm
from vmm.hypervisor.nic import Nics
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue
from vmm.network.gateway import Gateway
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import Quotas
from vmm.sandboxes.store import SANDBOXES, SandboxStore
from vmm.volumes.store import VOLUMES, VolumeStore

OWNER = "a" * 24
_HOST = "f" * 24
_WAIT_MS = 60_000
_ROOMY = OwnerLimits(sandboxes=500, cpus=500, mem=1024 * 1024, disk=100 * 1024 * 1024)


def images() -> Path:
    """Where the built images are: `CASEMATE_BENCH_IMAGES`, or what the tests keep."""
    return Path(os.environ.get("CASEMATE_BENCH_IMAGES", Path.home() / ".cache/casemate-test/images"))


def quiet() -> None:
    """Log warnings alone, beside the tables."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@asynccontextmanager
async def scratch() -> AsyncGenerator[Path]:
    """A data directory for the length of a block; what still runs in it then is ended."""
    place = Path(tempfile.mkdtemp(prefix="casemate-bench-"))
    try:
        yield place
    finally:
        with anyio.CancelScope(shield=True):
            for processes in orphans(place).values():
                for process in processes:
                    await process.kill()
            await anyio.to_thread.run_sync(shutil.rmtree, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a server finds on this host when it starts."""

    driver: Hypervisor
    confinement: Confinement


async def this_host(nics: Nics | None = None) -> Host:
    """The hypervisor that a server on this host would choose, confined as it would be, with network devices or none."""
    confinement = await Confinement.open(kvm=kvm().usable)
    return Host(driver=(await choose(confinement, nics)).driver, confinement=confinement)


@asynccontextmanager
async def opened(
    data: Path,
    *,
    at: Path | None = None,
    host: Host | None = None,
    own_memory: bool | None = None,
    gateway: Gateway | None = None,
) -> AsyncGenerator[Fleet]:
    """A fleet for the length of a block; opened again on the same directory, it is a server that was restarted.

    Args:
        data: Its directory, which holds the store, too.
        at: Where the images are, if not where `images` says.
        host: What it found, if somebody looked already.
        own_memory: Whether machines have memory files of their own from the start, if not as the driver prefers.
        gateway: Its sandboxes' way to the network, if not the usual one.
    """
    found = host or await this_host()
    async with (
        SqliteDatabase(data / "store.db") as database,
        Fleet(
            data=data,
            driver=found.driver,
            catalogue=Catalogue(at or images()),
            store=SandboxStore(await database.collection(SANDBOXES), host=_HOST),
            volumes=VolumeStore(await database.collection(VOLUMES), host=_HOST),
            quotas=Quotas(_ROOMY),
            reserve=HostReserve(),
            own_memory=own_memory,
            gateway=gateway,
        ) as fleet,
    ):
        await found.confinement.sweep()
        yield fleet


async def said(fleet: Fleet, ref: str, line: str) -> str:
    """What a shell's line that must succeed prints in a sandbox of OWNER."""
    outcome = await fleet.guest.exec(OWNER, ref, Command(shell=line), wait_ms=_WAIT_MS)
    if outcome.exit_code != 0:
        raise SystemExit(f"{line}: {outcome}")
    return outcome.stdout.data().decode().strip()
