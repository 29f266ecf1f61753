"""Fixtures of the edge's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast

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
from tests.mcp_server.host import one_host
from tests.mcp_server.people import settle
from vmm.errors import NotFound
from vmm.fleet import Fleet
from vmm.sandboxes.limits import OwnerLimits
from vmm.sandboxes.quotas import QUOTAS, Quotas
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.usage import Usage

Assemble = Callable[[object], Services]


class NoSandboxes:
    """A host on which nobody has a sandbox."""

    def __init__(self) -> None:
        self.sandboxes = _None()
        self.snapshots = _NoSnapshots()

    async def health(self, image: str) -> dict[str, str]:
        return {"store": "", "hypervisor": "", "image": ""}


class _None:
    async def get(self, owner: str, ref: str) -> None:
        raise NotFound(f"There is no sandbox {ref[:80]!r}", hint="List the sandboxes, or create one")

    async def list(self, owner: str, **_: object) -> Any:
        return type("Page", (), {"items": (), "total": 0, "page": 1, "limit": 20})

    async def usage(self, owner: str) -> Usage:
        return Usage()

    async def survey(self) -> dict[State, Usage]:
        return {state: Usage() for state in State}


class _NoSnapshots:
    async def list(self, owner: str) -> tuple[()]:
        return ()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, sessions_per_owner=3)


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
    """Where the audit's records are kept."""
    return await database.collection(AUDIT)


@pytest.fixture
def audit_log(records: Collection, meters: Meters) -> AuditLog:
    """Takes note of every call; it writes only in tests that run it."""
    return AuditLog(records, meters=meters, days=30)


@pytest.fixture
async def assemble(
    settings: Settings, database: Database, identity: Identity, records: Collection, audit_log: AuditLog, meters: Meters
) -> Assemble:
    """Puts a server's services together around a fleet, or what stands in for one."""
    quotas = Quotas(OwnerLimits(), await database.collection(QUOTAS))

    def assembled(fleet: object) -> Services:
        return Services(
            settings=settings,
            database=database,
            identity=identity,
            fleet=cast("Fleet", fleet),
            quotas=quotas,
            hypervisor="none",
            lock=DataDirLock(-1),
            audit_log=audit_log,
            audit_reader=AuditReader(records),
            meters=meters,
            tracing=Tracing(None),
        )

    return assembled


@pytest.fixture
def services(assemble: Assemble) -> Services:
    """A server's services over a host without sandboxes."""
    return assemble(NoSandboxes())


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
async def host(assemble: Assemble, keys: dict[str, str], tmp_path: Path) -> AsyncGenerator[Edge]:
    """A server on which alice has one sandbox, `box`."""
    async with one_host(tmp_path) as fleet:
        services = assemble(fleet)
        async with serving(services.web(), keys, services.identity.run) as running:
            yield running


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
