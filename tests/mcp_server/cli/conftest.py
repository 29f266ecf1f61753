"""Fixtures of the command line's tests: a server whose sandbox is this host, and `casemate` towards it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from auth.principal import Principal
from mcp_server.answers import problem
from mcp_server.rest.routes import rest_routes
from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.edge import Edge, serving
from tests.mcp_server.host import ALICE, one_host
from vmm.fleet import Fleet

CALLERS = {"alice-key": Principal(org_id=ALICE, user_id="alice"), "bob-key": Principal(org_id="b" * 24, user_id="bob")}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncGenerator[Edge]:
    place = tmp_path / "agent"
    place.mkdir()
    async with one_host(place) as fleet:
        app = Starlette(routes=rest_routes(cast("Fleet", fleet), default_image="code", default_cpu=1, default_mem=1024))

        async def gate(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in {"http", "websocket"}:
                who = CALLERS.get(Headers(scope=scope).get("x-api-key", ""))
                if who is None:
                    await problem(401, "invalid or inactive API key")(scope, receive, send)
                    return
                scope.setdefault("state", {})["principal"] = who
            await app(scope, receive, send)

        async with serving(gate, {"alice": "alice-key", "bob": "bob-key"}) as running:
            yield running


@pytest.fixture
def cli(host: Edge, tmp_path: Path) -> Cli:
    """The command line with alice's key."""
    here = tmp_path / "here"
    here.mkdir()
    return Cli(url=host.url, key=host.keys["alice"], here=here)


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A directory of the sandbox, which is this host."""
    place = tmp_path / "guest"
    place.mkdir()
    return place
