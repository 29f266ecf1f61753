"""Fixtures of the edge's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp

from mcp_server.app import Services, sqlite_database
from mcp_server.audit.log import AuditLog
from mcp_server.audit.reader import AuditReader
from mcp_server.audit.record import AUDIT
from mcp_server.data_dir_lock import DataDirLock
from mcp_server.identity import Identity
from mcp_server.observability.metrics import Meters
from mcp_server.observability.tracing import Tracing
from mcp_server.settings import Settings
from storage.collection import Collection, Database
from tests.mcp_server.edge import Edge, Tools, serving
from tests.mcp_server.host import MANY, OneHost, OpenHost, Prepared, no_sandboxes, one_host, prepare
from tests.mcp_server.people import settle
from vmm.fleet import Fleet
from vmm.machines.clone import Cloner
from vmm.machines.machine import Machine
from vmm.sandboxes.limits import OwnerLimits
from vmm.sandboxes.quotas import QUOTAS, Quotas

Assemble = Callable[[Fleet], Services]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, sessions_per_owner=3, create_wait_seconds=600)


@pytest.fixture
async def database(settings: Settings) -> AsyncGenerator[Database]:
    async with sqlite_database(settings) as database:
        yield database


@pytest.fixture
async def identity(settings: Settings, database: Database) -> Identity:
    return await Identity.open(settings, database, shared=False)


@pytest.fixture
async def keys(database: Database, identity: Identity) -> dict[str, str]:
    """The keys of two owners."""
    return await settle(database, identity)


@pytest.fixture
def meters() -> Meters:
    return Meters(version="test")


@pytest.fixture
async def records(database: Database) -> Collection:
    """The collection of audit records."""
    return await database.collection(AUDIT)


@pytest.fixture
def audit_log(records: Collection, meters: Meters) -> AuditLog:
    """Records every call; it writes only in tests that run it."""
    return AuditLog(records, meters=meters, days=30)


@pytest.fixture
async def assemble(
    settings: Settings, database: Database, identity: Identity, records: Collection, audit_log: AuditLog, meters: Meters
) -> Assemble:
    """Puts a server's services together around a fleet."""
    quotas = Quotas(OwnerLimits(), await database.collection(QUOTAS))

    def assembled(fleet: Fleet) -> Services:
        return Services(
            settings=settings,
            database=database,
            identity=identity,
            fleet=fleet,
            quotas=quotas,
            hypervisor="none",
            network="none",
            lock=DataDirLock(-1),
            audit_log=audit_log,
            audit_reader=AuditReader(records),
            meters=meters,
            tracing=Tracing(None),
        )

    return assembled


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The images and the template of all sandboxes that are processes of this host."""
    return anyio.run(prepare, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
async def empty(prepared: Prepared, tmp_path: Path) -> AsyncGenerator[Fleet]:
    """A fleet on which nobody has a sandbox."""
    directory = tmp_path / "empty"
    directory.mkdir()
    async with no_sandboxes(prepared, directory) as fleet:
        yield fleet


@pytest.fixture
def services(assemble: Assemble, empty: Fleet) -> Services:
    """A server's services over a host without sandboxes."""
    return assemble(empty)


@pytest.fixture
def application(services: Services) -> ASGIApp:
    """The web application over these services, not served yet."""
    return services.web()


@pytest.fixture
async def edge(services: Services, application: ASGIApp, keys: dict[str, str]) -> AsyncGenerator[Edge]:
    """A server without sandboxes, for what the edge decides by itself."""
    async with serving(application, keys, services.identity.run) as running:
        yield running


@pytest.fixture
def room() -> int:
    """How many sandboxes the host has memory for; a test that wants fewer gives its own number."""
    return MANY


@pytest.fixture
def open_host(prepared: Prepared, tmp_path: Path, room: int) -> OpenHost:
    """Opens a fleet on which alice has one sandbox, `box`."""
    return partial(one_host, prepared, tmp_path, room=room)


@pytest.fixture
async def fleet_of_one(open_host: OpenHost) -> AsyncGenerator[OneHost]:
    """A fleet on which alice has one sandbox, `box`."""
    async with open_host() as fleet:
        yield fleet


@pytest.fixture
async def host(assemble: Assemble, keys: dict[str, str], fleet_of_one: OneHost) -> AsyncGenerator[Edge]:
    """A server on which alice has one sandbox, `box`."""
    services = assemble(fleet_of_one)
    async with serving(services.web(), keys, services.identity.run) as running:
        yield running


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """Until it is set, no machine is made."""
    go, clone = anyio.Event(), Cloner.clone

    async def held(self: Cloner, *args: Any, **options: Any) -> Machine:
        await go.wait()
        return await clone(self, *args, **options)

    monkeypatch.setattr(Cloner, "clone", held)
    return go


@pytest.fixture
async def box(host: Edge) -> AsyncGenerator[Tools]:
    """Alice's tools, with `box` as the sandbox of every call."""
    async with host.client("alice") as client:
        yield Tools(client)


@pytest.fixture
async def server(assemble: Assemble, fleet: Fleet, keys: dict[str, str]) -> AsyncGenerator[Edge]:
    """A server with real machines."""
    services = assemble(fleet)
    async with serving(services.web(), keys, services.identity.run) as running:
        yield running
