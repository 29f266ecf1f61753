"""A server whose sandbox is this host, and servers of this host as what runs inside."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.responses import PlainTextResponse
from websockets.asyncio.client import connect

from mcp_server.app import Services
from mcp_server.ports.access import Access
from mcp_server.ports.front import PortsFront
from mcp_server.ports.names import PortNames
from mcp_server.ports.tokens import Tokens
from mcp_server.ports.visitors import Visitors
from mcp_server.ports.visits import Visits
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import NO_TLS, Edge, serving
from tests.mcp_server.host import SANDBOX, OneHost
from tests.mcp_server.ports.dialled import dial
from tests.mcp_server.ports.guest_app import GuestApp
from tests.waiting import PATIENCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A server, and the address of one port of its sandbox."""

    edge: Edge
    port: int

    @property
    def host(self) -> str:
        return f"{self.port}-{SANDBOX}.localhost:{urlsplit(self.edge.url).port}"

    @property
    def prefix(self) -> str:
        return f"/api/sandboxes/{SANDBOX}/ports/{self.port}"

    async def publish(self, **fields: object) -> dict[str, Any]:
        """Publish the port, as alice."""
        async with self.edge.http("alice") as alice:
            answer = await alice.post("/api/sandboxes/box/ports", json={"port": self.port, **fields})
            assert answer.status_code == 201, answer.text
            return answer.json()["data"]

    def http(self, key: str = "", **headers: str) -> httpx.AsyncClient:
        """A client of the port by host name."""
        keyed = {"x-api-key": self.edge.keys.get(key, key)} if key else {}
        return httpx.AsyncClient(
            base_url=self.edge.url,
            headers={"host": self.host, **keyed, **headers},
            timeout=PATIENCE_S,
            verify=NO_TLS,
        )

    def by_path(self, key: str = "", **headers: str) -> httpx.AsyncClient:
        """A client of the port by path."""
        keyed = {"x-api-key": self.edge.keys.get(key, key)} if key else {}
        return httpx.AsyncClient(
            base_url=self.edge.url, headers={**keyed, **headers}, timeout=PATIENCE_S, verify=NO_TLS
        )

    def socket(self, path: str = "/socket", key: str = "alice", **options: Any) -> connect:
        """A WebSocket to the port by host name."""
        headers = {"x-api-key": self.edge.keys[key]} if key else {}
        address = urlsplit(self.edge.url)
        return connect(
            f"ws://{self.host}{path}",
            host=address.hostname,
            port=address.port,
            additional_headers=headers | options.pop("headers", {}),
            proxy=None,
            max_size=None,
            **options,
        )


@pytest.fixture
def with_ports(assemble: Assemble, fleet_of_one: OneHost) -> Services:
    """A server's services; ports of the sandbox are ports of this host."""
    return replace(assemble(fleet_of_one), dial=dial)


@pytest.fixture
async def ported(with_ports: Services, keys: dict[str, str]) -> AsyncGenerator[Edge]:
    """A server on which alice has one sandbox, `box`, whose ports are this host's."""
    async with serving(with_ports.web(), keys, with_ports.identity.run) as running:
        yield running


@pytest.fixture
def visits() -> Visits:
    """The connections of `hasty`."""
    return Visits(most=1)


@pytest.fixture
def visitors(fleet_of_one: OneHost, visits: Visits) -> Visitors:
    """Serves ports, without a gate; waits for no head and no client, and allows one connection."""

    async def find(_owner: str, ref: str, _port: int) -> str:
        return ref

    async def recognise(_bearer: str, _address: str) -> bool:
        return False

    return Visitors(
        Access(fleet_of_one.ports, Tokens(b"secret")),
        dial,
        visits,
        gate=lambda inner: inner,
        recognise=recognise,
        find=find,
        head_s=0.05,
        stalled_s=0.2,
    )


@pytest.fixture
async def hasty(visitors: Visitors) -> AsyncGenerator[Edge]:
    """A server that serves ports and nothing else."""
    names = PortNames("localhost", port=1)
    front = PortsFront(PlainTextResponse("api"), names=names, by_host=visitors, by_path=visitors)
    async with serving(front) as running:
        yield running


@pytest.fixture
def guest_app() -> GuestApp:
    return GuestApp()


@pytest.fixture
async def app(ported: Edge, guest_app: GuestApp) -> AsyncGenerator[Published]:
    """The port of a web application in the sandbox; not published yet."""
    async with serving(guest_app.app) as inside:
        port = urlsplit(inside.url).port
        assert port is not None
        yield Published(edge=ported, port=port)
