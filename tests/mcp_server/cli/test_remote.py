"""The command line's connection to a slow server."""

from __future__ import annotations

from http import HTTPStatus

import anyio
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from mcp_server.cli import remote
from mcp_server.cli.console import CliError
from mcp_server.cli.remote import Remote

pytestmark = pytest.mark.anyio

SHORT_S = 0.2


async def wakes_a_machine(_socket: ServerConnection, _request: Request) -> None:
    """Answer after more time than a connection may take."""
    await anyio.sleep(5 * SHORT_S)


async def never_answers(_socket: ServerConnection, _request: Request) -> Response:
    await anyio.sleep_forever()
    return Response(HTTPStatus.OK, "", _request.headers)


async def greets(socket: ServerConnection) -> None:
    await socket.send("$ ")


async def test_a_terminal_opens_on_a_machine_that_must_wake_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_S", SHORT_S)
    async with (
        serve(greets, "127.0.0.1", 0, process_request=wakes_a_machine) as server,
        Remote.connect(address(server.sockets[0].getsockname()), key="", key_origin="", loopback=True) as client,
        client.socket("/api/sandboxes/box/pty", {}) as socket,
    ):
        assert await socket.recv() == "$ "


async def test_a_silent_server_is_distinguished_from_an_unreachable_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_S", SHORT_S)
    async with serve(greets, "127.0.0.1", 0, process_request=never_answers) as server:
        url = address(server.sockets[0].getsockname())
        async with Remote.connect(url, key="", key_origin="", loopback=True) as client:
            with pytest.raises(CliError, match="did not answer in time"):
                async with client.socket("/api/sandboxes/box/pty", {}):
                    pass
        server.close(close_connections=True)


def address(name: tuple[str, int]) -> str:
    return f"http://{name[0]}:{name[1]}"
