"""The command line's end of a connection, towards a server that takes its time."""

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
    """Longer than a connection may take."""
    await anyio.sleep(5 * SHORT_S)


async def never_answers(_socket: ServerConnection, _request: Request) -> Response:
    await anyio.sleep_forever()
    return Response(HTTPStatus.OK, "", _request.headers)


async def greets(socket: ServerConnection) -> None:
    await socket.send("$ ")


async def test_a_terminal_opens_on_a_machine_that_has_to_wake_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_S", SHORT_S)
    async with (
        serve(greets, "127.0.0.1", 0, process_request=wakes_a_machine) as server,
        Remote.connect(address(server.sockets[0].getsockname()), key="", key_origin="", loopback=True) as there,
        there.socket("/api/sandboxes/box/pty", {}) as socket,
    ):
        assert await socket.recv() == "$ "


async def test_a_server_that_never_answers_is_told_from_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_S", SHORT_S)
    async with serve(greets, "127.0.0.1", 0, process_request=never_answers) as server:
        url = address(server.sockets[0].getsockname())
        async with Remote.connect(url, key="", key_origin="", loopback=True) as there:
            with pytest.raises(CliError, match="does not answer in time"):
                async with there.socket("/api/sandboxes/box/pty", {}):
                    pass
        server.close(close_connections=True)


def address(name: tuple[str, int]) -> str:
    return f"http://{name[0]}:{name[1]}"
