"""What visitors of a port get that cannot be served, or that leave."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from anyio.abc import ByteStream
from starlette.types import Message, Scope
from uvicorn.protocols.utils import ClientDisconnected

from mcp_server.app import Services
from mcp_server.ports.names import Place
from mcp_server.ports.visitors import Visitors
from mcp_server.ports.visits import Visits
from storage.errors import StoreUnavailable
from tests.mcp_server.edge import Edge, serving
from tests.mcp_server.host import ALICE, SANDBOX, OneHost
from tests.mcp_server.ports.conftest import Published
from tests.mcp_server.ports.servers import SCOPE
from tests.waiting import until
from vmm.errors import Unavailable

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "error", [Unavailable("/srv/host is full"), StoreUnavailable("db.example.com is down")], ids=repr
)
async def test_only_callers_with_a_key_are_told_what_is_wrong_with_this_host(
    with_ports: Services, keys: dict[str, str], error: Exception
) -> None:
    @asynccontextmanager
    async def failing(_owner: str, _ref: str, _port: int) -> AsyncGenerator[ByteStream]:
        raise error
        yield

    services = replace(with_ports, dial=failing)
    async with serving(services.web(), keys, services.identity.run) as edge:
        port = Published(edge=edge, port=8000)
        await port.publish(public=True)
        async with port.http() as nobody, port.http("alice") as alice:
            told, known = await nobody.get("/"), await alice.get("/")
    assert (told.status_code, known.status_code) == (503, 503)
    assert told.text == "This port cannot be opened now. Try again in a few seconds.\n"
    assert str(error) in known.text


@pytest.mark.parametrize("crowded", [False, True])
async def test_a_client_that_leaves_during_the_handshake_is_no_failure(
    visitors: Visitors, visits: Visits, fleet_of_one: OneHost, app: Published, crowded: bool
) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
    place = Place(ref=SANDBOX, port=app.port, prefix="", path=b"/socket")
    headers = [(b"host", app.host.encode())]
    scope: Scope = {**SCOPE, "type": "websocket", "scheme": "ws", "headers": headers, "state": {"place": place}}
    tried: list[str] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def gone(message: Message) -> None:
        tried.append(message["type"])
        raise ClientDisconnected

    with visits.opened(SANDBOX, 1) if crowded else nullcontext():
        await visitors(scope, receive, gone)
    assert tried == ["websocket.close" if crowded else "websocket.accept"]


async def test_a_sandbox_has_only_so_many_connections(hasty: Edge, fleet_of_one: OneHost, app: Published) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
    port = Published(edge=hasty, port=app.port)
    async with port.http() as http:
        async with port.socket(key=""):
            answer = await http.get("/")
        assert answer.status_code == 503
        assert "too many open connections" in answer.text
        await until(lambda: _is_let_in(http))


async def test_a_client_that_takes_nothing_has_left(
    hasty: Edge, visits: Visits, fleet_of_one: OneHost, app: Published
) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
    port = Published(edge=hasty, port=app.port)
    client = await anyio.connect_tcp("127.0.0.1", urlsplit(hasty.url).port or 0)
    async with client:
        await client.send(f"GET /download?pieces=10000 HTTP/1.1\r\nHost: {port.host}\r\n\r\n".encode())
        assert await client.receive(12) == b"HTTP/1.1 200"
        await until(lambda: _nobody_is_there(visits))


async def _nobody_is_there(visits: Visits) -> bool:
    return len(visits) == 0


async def _is_let_in(http: httpx.AsyncClient) -> bool:
    return (await http.get("/")).status_code == 200
