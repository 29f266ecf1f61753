"""WebSockets between a client and a server in a sandbox."""

from __future__ import annotations

import json

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Origin

from mcp_server.ports.proxy import SLICE
from mcp_server.ports.websocket import SocketExchange
from tests.mcp_server.edge import Edge
from tests.mcp_server.ports.conftest import Published
from tests.mcp_server.ports.guest_app import GuestApp
from tests.mcp_server.ports.servers import PLACE, SCOPE, Blurting, served, socket_server
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def test_messages_of_a_websocket_pass_both_ways(app: Published) -> None:
    await app.publish()
    large = "x" * (2 * MIB)
    async with app.socket(subprotocols=["vite-hmr", "other"]) as socket:
        assert socket.subprotocol == "vite-hmr"
        for message in ("hello", "", "ä", b"\x00\xff", large, large.encode()):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send("headers")
        headers = json.loads(await socket.recv())
    assert headers["host"] == app.host
    assert "x-api-key" not in headers
    assert headers["x-forwarded-proto"] == "http"


async def test_messages_that_arrive_with_the_handshake_are_passed_on(ported: Edge) -> None:
    async with socket_server(ported, b"\x81\x05hello\x81\x02!!\x88\x02\x0f\xa1") as port:
        await port.publish(public=True)
        async with port.socket("/", key="") as socket:
            assert [await socket.recv(), await socket.recv()] == ["hello", "!!"]
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
        assert socket.close_code == 4001


@pytest.mark.parametrize(
    ("frame", "answered"), [(b"\x89\x00", True), (b"\x8a\x00", False), (b"\x00\x00", False)], ids=str
)
async def test_tiny_frames_of_a_server_leave_time_for_everybody_else(frame: bytes, answered: bool) -> None:
    wire = ServerProtocol()
    said = frame * 32_760
    if frame[0] == 0:  # fragments of a message
        said = b"\x01\x01a" + said + b"\x80\x01b"

    def answer(heard: bytes) -> bytes:
        wire.receive_data(heard)
        (request,) = wire.events_received()
        assert isinstance(request, Request)
        wire.send_response(wire.accept(request))
        return b"".join(wire.data_to_send())

    stream = Blurting(answer, said)
    scope = {**SCOPE, "type": "websocket", "scheme": "ws"}
    sent, turns = await served(SocketExchange(stream, PLACE).run, scope, stream)
    assert turns >= len(said) // SLICE - 1
    assert len(stream.sent) < 100
    assert b"".join(stream.sent).count(b"\x8a\x80") >= (32_000 if answered else 0)
    texts = [message["text"] for message in sent if message["type"] == "websocket.send"]
    assert texts == ([] if frame[0] else ["ab"])


async def test_a_websocket_works_by_path(app: Published) -> None:
    await app.publish(public=True)
    url = f"ws{app.edge.url.removeprefix('http')}{app.prefix}/socket"
    async with connect(url, proxy=None, origin=Origin(app.edge.url)) as socket:
        await socket.send("headers")
        headers = json.loads(await socket.recv())
    assert headers["host"] == f"localhost:{app.port}"
    assert headers["origin"] == f"http://localhost:{app.port}"


async def test_the_codes_with_which_sides_close_reach_the_other(app: Published, guest_app: GuestApp) -> None:
    await app.publish(public=True)
    async with app.socket(key="") as socket:
        await socket.send("close")
        with pytest.raises(ConnectionClosedError):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish")
    async with app.socket(key="") as socket:
        await socket.close(4002, "bye")
    with anyio.fail_after(PATIENCE_S):
        await guest_app.left.wait()


async def test_a_refused_handshake_is_answered_as_the_server_did(app: Published) -> None:
    await app.publish(public=True)
    with pytest.raises(InvalidStatus) as refused:
        async with app.socket("/refused", key=""):
            pass
    assert refused.value.response.status_code == 418
    assert refused.value.response.body == b"not for you"
