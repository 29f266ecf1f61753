"""Sandbox-api over sandboxes that are processes of this host, and over real machines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import ASGIApp

from mcp_server.app import Services
from mcp_server.sandbox_api.rules import Home
from mcp_server.settings import Settings
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import Edge, serving
from tests.mcp_server.rest.described import Described
from vmm.fleet import Fleet


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A root user's limit on processes counts those of the whole host, so there is none."""
    return Settings(data=tmp_path, sandbox_api=True, sandbox_api_pids=0, default_image="minimal")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The workspace of every session: a directory of this host, whose guests are processes."""
    return Home(workspace=str(tmp_path / "workspace"), user="")


@pytest.fixture
def services(assemble: Assemble, empty: Fleet, home: Home) -> Services:
    """A server's services over a host without sandboxes."""
    return replace(assemble(empty), home=home)


@pytest.fixture
def application(services: Services) -> Iterator[ASGIApp]:
    """The web application, whose answers must be as they are described."""
    assert services.session_api is not None
    described = Described(services.web(), services.session_api.endpoints)
    yield described
    described.check()


@pytest.fixture
async def machines(assemble: Assemble, settings: Settings, fleet: Fleet, keys: dict[str, str]) -> AsyncGenerator[Edge]:
    """A server with real machines, whose users have the limits that they have by default."""
    services = replace(assemble(fleet), settings=settings.model_copy(update={"sandbox_api_pids": 50}))
    async with serving(services.web(), keys, services.identity.run) as running:
        yield running


@pytest.fixture
async def keepers(assemble: Assemble, settings: Settings, fleet: Fleet, keys: dict[str, str]) -> AsyncGenerator[Edge]:
    """A server with real machines, whose sessions have volumes for their files."""
    persistent = settings.model_copy(update={"sandbox_api_persist": True, "sandbox_api_volume_mib": 64})
    services = replace(assemble(fleet), settings=persistent)
    async with serving(services.web(), keys, services.identity.run) as running:
        yield running
