"""Fixtures of the edge's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import ASGIApp

from auth.keys import KeyStore
from auth.middleware import ApiKeyAuth
from mcp_server.audit.record import AUDIT
from mcp_server.audit.trail import Trail
from mcp_server.metrics.meters import Meters
from mcp_server.settings import Settings
from mcp_server.web import build_web
from storage.collection import Collection
from storage.sqlite import SqliteDatabase
from tests.mcp_server.edge import Edge, Tools, serving
from tests.mcp_server.host import one_host
from vmm.errors import NotFound
from vmm.fleet import Fleet

ALICE, BOB = "a" * 24, "b" * 24


class NoSandboxes:
    """A host on which nobody has a sandbox."""

    async def get(self, owner: str, ref: str) -> None:
        raise NotFound(f"There is no sandbox {ref[:80]!r}", hint="List the sandboxes, or create one")

    async def list(self, owner: str, **_: object) -> Any:
        return type("Page", (), {"items": (), "total": 0, "page": 1, "limit": 20})

    async def health(self) -> dict[str, str]:
        return {"store": "", "hypervisor": "", "image": ""}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, sessions_per_owner=3)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[KeyStore]:
    async with SqliteDatabase(tmp_path / "store" / "keys.db") as database:
        yield await KeyStore.open(database)


@pytest.fixture
def meters() -> Meters:
    return Meters(version="test")


@pytest.fixture
async def records(tmp_path: Path) -> AsyncGenerator[Collection]:
    """Where the audit's records are kept."""
    async with SqliteDatabase(tmp_path / "store" / "audit.db") as database:
        yield await database.collection(AUDIT)


@pytest.fixture
def trail(records: Collection, meters: Meters) -> Trail:
    """Takes note of every call; it writes only in tests that run it."""
    return Trail(records, meters=meters, days=30)


@pytest.fixture
async def keys(store: KeyStore) -> dict[str, str]:
    """The keys of two owners."""
    organisations = {"alice": ALICE, "bob": BOB}
    return {
        name: (await store.create(org_id=organisation, created_by=f"user-{name}", name="test")).plain
        for name, organisation in organisations.items()
    }


@pytest.fixture
def application(settings: Settings, store: KeyStore, trail: Trail, meters: Meters) -> ASGIApp:
    """The web application over a host without sandboxes, not served yet."""
    return build_web(settings, cast("Fleet", NoSandboxes()), lambda app: ApiKeyAuth(app, store), trail, meters)


@pytest.fixture
async def edge(application: ASGIApp, keys: dict[str, str]) -> AsyncGenerator[Edge]:
    """A server without sandboxes, for what the edge decides by itself."""
    async with serving(application, keys) as running:
        yield running


@pytest.fixture
async def host(
    settings: Settings, store: KeyStore, keys: dict[str, str], tmp_path: Path, trail: Trail, meters: Meters
) -> AsyncGenerator[Edge]:
    """A server on which alice has one sandbox, `box`."""
    async with one_host(tmp_path) as fleet:
        app = build_web(settings, cast("Fleet", fleet), lambda app: ApiKeyAuth(app, store), trail, meters)
        async with serving(app, keys) as running:
            yield running


@pytest.fixture
async def box(host: Edge) -> AsyncGenerator[Tools]:
    """Alice's tools, with `box` as the sandbox of every call."""
    async with host.client("alice") as client:
        yield Tools(client)


@pytest.fixture
async def server(
    settings: Settings, fleet: Fleet, store: KeyStore, keys: dict[str, str], trail: Trail, meters: Meters
) -> AsyncGenerator[Edge]:
    """A server with real machines."""
    app = build_web(settings, fleet, lambda app: ApiKeyAuth(app, store), trail, meters)
    async with serving(app, keys) as running:
        yield running
