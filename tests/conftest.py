"""Fixtures that every test may use: images built once for all sessions, a data directory and a driver per session."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from storage.sqlite import SqliteDatabase
from vmm.errors import Conflict
from vmm.fleet import Fleet
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.detect import Choice, choose
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import Quotas
from vmm.sandboxes.store import SANDBOXES, SandboxStore
from vmm.volumes.store import VOLUMES, VolumeStore

# A shell without job control starts what runs in the background with SIGINT ignored, nohup what it runs with SIGHUP
# ignored, and all that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test makes a bridge on the host: those of taps have network namespaces of their own.
os.environ.setdefault("CASEMATE_NETWORK_WAY", "user")
# On a busy host a template takes longer than a create waits, and tests begin with sandboxes that run.
os.environ.setdefault("CASEMATE_CREATE_WAIT_SECONDS", "600")

pytest_plugins = ("tests.beside", "tests.hanging", "tests.examples", "tests.mongo_server.fixtures")

HOST = "f" * 24
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def image_root() -> Path:
    """Where images are kept between sessions, so that a machine builds them once."""
    cache = os.environ.get("XDG_CACHE_HOME") or f"{Path.home()}/.cache"
    return Path(os.environ.get("CASEMATE_TEST_DATA") or f"{cache}/casemate-test") / "images"


@pytest.fixture(scope="session")
def catalogue(image_root: Path) -> Catalogue:
    """The images, all of them built."""
    catalogue = Catalogue(image_root)

    async def build() -> None:
        for name in catalogue.names():
            await catalogue.ensure(name)
        with suppress(Conflict):  # another process of the tests does it, or builds
            await catalogue.prune()

    anyio.run(build)
    return catalogue


@pytest.fixture(scope="session")
def choice() -> Choice:
    """The hypervisor that this host can run."""
    return anyio.run(choose)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of templates of all hosts: booting one takes seconds, so each kind is booted once."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, templates: Path) -> Path:
    """The session's data directory."""
    place = tmp_path_factory.mktemp("data")
    (place / "templates").symlink_to(templates)
    return place


@pytest.fixture
def open_fleet(data: Path, tmp_path: Path, catalogue: Catalogue, choice: Choice) -> Opener:
    """Opens a fleet on the test's own store; opened again, it is a server that was restarted."""

    @asynccontextmanager
    async def opened(
        *,
        limits: OwnerLimits | None = None,
        reserve: HostReserve | None = None,
        at: Path = data,
        images: Catalogue = catalogue,
        driver: Hypervisor = choice.driver,
        **more: Any,
    ) -> AsyncGenerator[Fleet]:
        async with (
            SqliteDatabase(tmp_path / "store.db") as database,
            Fleet(
                data=at,
                driver=driver,
                catalogue=images,
                store=SandboxStore(await database.collection(SANDBOXES), host=HOST),
                volumes=VolumeStore(await database.collection(VOLUMES), host=HOST),
                quotas=Quotas(limits or OwnerLimits()),
                reserve=reserve or HostReserve(),
                **more,
            ) as fleet,
        ):
            yield fleet

    return opened


@pytest.fixture
async def fleet(open_fleet: Opener, data: Path) -> AsyncGenerator[Fleet]:
    """A fleet without sandboxes; those that a test makes are gone after it."""
    async with open_fleet() as fleet:
        yield fleet
        for owner in ("a" * 24, "b" * 24):
            for sandbox in (await fleet.sandboxes.list(owner, limit=100)).items:
                await fleet.sandboxes.delete(owner, sandbox.id)
        assert orphans(data / "instances") == {}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, image_root: Path, templates: Path) -> Path:
    """A data directory for real servers: images and templates are there, everything else they make themselves."""
    assert catalogue.names()
    place = tmp_path_factory.mktemp("served")
    (place / "images").symlink_to(image_root)
    (place / "templates").symlink_to(templates)
    return place
