"""The REST routes on a real server, over a sandbox that is this host; who calls is told by a header."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect

from auth.principal import Principal
from auth.roles import Scope as Power
from mcp_server.defaults import Defaults
from mcp_server.ports.names import PortNames
from mcp_server.ports.published import PublishedPorts
from mcp_server.rest.api import version_endpoint
from mcp_server.rest.endpoint import routes
from mcp_server.rest.routes import SandboxApi
from mcp_server.rest.sockets import socket_routes
from storage.sqlite import SqliteDatabase
from tests.auth.clocks import Clocks
from tests.auth.rig import Rig, open_rig
from tests.mcp_server.edge import NO_TLS, serving
from tests.mcp_server.host import ALICE, SANDBOX, OneHost
from tests.mcp_server.ports.dialled import dial
from tests.mcp_server.rest.described import Described
from tests.waiting import PATIENCE_S
from vmm.fleet import Fleet

BOB = "b" * 24
CALLERS = {
    "alice": Principal(org_id=ALICE, user_id="user-alice"),
    "runner": Principal(org_id=ALICE, user_id="user-runner", scopes=frozenset({Power.RUN})),
    "reader": Principal(org_id=ALICE, user_id="user-reader", scopes=frozenset({Power.READ})),
    "bob": Principal(org_id=BOB, user_id="user-bob"),
}
BASE = f"/api/sandboxes/{SANDBOX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A server that runs, and what its last calls left for the audit."""

    url: str
    states: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def http(self, who: str = "alice") -> httpx.AsyncClient:
        headers = {"x-who": who} if who else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE_S, verify=NO_TLS)

    def socket(self, path: str, who: str = "alice") -> connect:
        """A WebSocket to one of the sandbox's terminals."""
        headers = {"x-who": who} if who else {}
        return connect(f"ws{self.url.removeprefix('http')}{BASE}/{path}", additional_headers=headers, proxy=None)


@asynccontextmanager
async def rest_server(fleet: Fleet) -> AsyncGenerator[Rest]:
    """Serve the routes over a fleet."""
    ports = PublishedPorts(fleet, names=PortNames("localhost", port=1), dial=dial, secret=b"secret")
    api = SandboxApi(fleet, Defaults(), ports)
    endpoints = [*api.endpoints, version_endpoint("1.2.3")]
    behind = routes(endpoints, sockets=[one.path for one in api.sockets])
    app = Starlette(routes=[*socket_routes(api.sockets), *behind])
    app.router.redirect_slashes = False
    states: list[dict[str, Any]] = []
    described = Described(app, endpoints, api.sockets)
    async with serving(_introduced(described, states)) as edge:
        yield Rest(url=edge.url, states=states)
    described.check()


def _introduced(app: ASGIApp, states: list[dict[str, Any]]) -> ASGIApp:
    """What the gate does: say who calls."""

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            who = CALLERS.get(Headers(scope=scope).get("x-who", ""))
            if who is not None:
                scope.setdefault("state", {})["principal"] = who
        try:
            await app(scope, receive, send)
        finally:
            states.append(dict(scope.get("state", {})))

    return known


@pytest.fixture
async def rest(fleet_of_one: OneHost) -> AsyncGenerator[Rest]:
    """A server on which alice has one sandbox, `box`."""
    async with rest_server(fleet_of_one) as running:
        yield running


@pytest.fixture
async def http(rest: Rest) -> AsyncGenerator[httpx.AsyncClient]:
    """Alice's client."""
    async with rest.http() as client:
        yield client


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """The stores of accounts with nobody in them, for tests that need the gate and no sandbox."""
    async with SqliteDatabase(tmp_path / "store" / "casemate.db") as database:
        yield await open_rig(database, Clocks())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that is the same in the sandbox."""
    made = tmp_path / "guest"
    made.mkdir()
    return made


async def events(lines: AsyncIterator[str]) -> list[tuple[str, str]]:
    """Server-sent events as pairs of name and data, each ended by a blank line."""
    found: list[tuple[str, str]] = []
    name, data = "", list[str]()
    async for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:"))
        elif not line and name:
            found.append((name, "\n".join(data)))
            name, data = "", []
    assert not name, "the last event lacks its blank line"
    return found


async def shown_until(socket: ClientConnection, text: str) -> str:
    """What a terminal shows up to a text."""
    shown = ""
    while text not in shown:
        frame = await socket.recv()
        shown += frame if isinstance(frame, str) else frame.decode()
    return shown


def data_of(answer: httpx.Response) -> dict[str, Any]:
    """The data in a successful answer's envelope."""
    assert answer.status_code == 200, answer.text
    body = json.loads(answer.text)
    assert body["status"] == "success"
    return body.get("data")
