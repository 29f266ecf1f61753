"""Fixtures of the edge's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.settings import Settings
from mcp_server.web import build_web
from tests.mcp_server.edge import Edge, Tools, serving
from tests.mcp_server.host import one_host
from vmm.errors import NotFound

if TYPE_CHECKING:
    from vmm.fleet import Fleet


class NoSandboxes:
    """A host on which nobody has a sandbox."""

    async def get(self, owner: str, ref: str) -> None:
        raise NotFound(f"There is no sandbox {ref[:80]!r}", hint="List the sandboxes, or create one")

    async def list(self, owner: str, **_: object) -> Any:
        return type("Page", (), {"items": (), "total": 0, "page": 1, "limit": 20})

    async def health(self) -> dict[str, str]:
        return {"store": "", "hypervisor": "", "image": ""}


class Keys:
    """Two keys of two owners."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner = {"key-alice": "alice", "key-bob": "bob"}.get(Headers(scope=scope).get("x-api-key", ""))
        if owner is None:
            await JSONResponse({"error": "invalid or inactive API key"}, status_code=401)(scope, receive, send)
            return
        scope["user"] = AuthenticatedUser(AccessToken(token="-", client_id="api-key", scopes=[], subject=owner))
        await self._app(scope, receive, send)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, sessions_per_owner=3)


@pytest.fixture
def application(settings: Settings) -> ASGIApp:
    """The web application over a host without sandboxes, not served yet."""
    return build_web(settings, cast("Fleet", NoSandboxes()), Keys)


@pytest.fixture
async def edge(application: ASGIApp) -> AsyncGenerator[Edge]:
    """A server without sandboxes, for what the edge decides by itself."""
    async with serving(application) as running:
        yield running


@pytest.fixture
async def host(settings: Settings, tmp_path: Path) -> AsyncGenerator[Edge]:
    """A server on which alice has one sandbox, `box`."""
    async with one_host(tmp_path) as fleet:
        app = build_web(settings, cast("Fleet", fleet), Keys)
        async with serving(app) as running:
            yield running


@pytest.fixture
async def box(host: Edge) -> AsyncGenerator[Tools]:
    """Alice's tools, with `box` as the sandbox of every call."""
    async with host.client("key-alice") as client:
        yield Tools(client)
