"""Whose word about a client's address counts: that of proxies that the operator names, and nobody else's."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mcp_server.http.serve import WebServer, listen

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("trusted", "forwarded", "seen"),
    [
        ((), "192.0.2.7", "127.0.0.1"),
        (("127.0.0.1",), "192.0.2.7", "192.0.2.7"),
        (("127.0.0.0/8",), "192.0.2.7", "192.0.2.7"),
        (("127.0.0.1",), "10.9.9.9, 192.0.2.7", "192.0.2.7"),
        (("127.0.0.1", "192.0.2.0/24"), "10.9.9.9, 192.0.2.7", "10.9.9.9"),
        (("192.0.2.1",), "192.0.2.7", "127.0.0.1"),
    ],
)
async def test_a_client_is_who_a_trusted_proxy_says(trusted: Sequence[str], forwarded: str, seen: str) -> None:
    assert await _seen(trusted, forwarded) == seen


async def _seen(trusted: Sequence[str], forwarded: str) -> str:
    seen = ""

    async def tell(request: Request) -> PlainTextResponse:
        assert request.client is not None
        return PlainTextResponse(request.client.host)

    listener, started = listen("127.0.0.1", 0), anyio.Event()
    server = WebServer(Starlette(routes=[Route("/", tell)]), started.set, trusted_proxies=trusted)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        await started.wait()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with httpx.AsyncClient() as http:
            seen = (await http.get(url, headers={"x-forwarded-for": forwarded})).text
        server.should_exit = True
    return seen
