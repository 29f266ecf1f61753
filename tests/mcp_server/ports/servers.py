"""Servers inside a sandbox that say what a test decides, and one that says it in one piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from starlette.types import Message, Receive, Scope, Send
from websockets.http11 import Request
from websockets.server import ServerProtocol

from mcp_server.ports.names import Place
from tests.mcp_server.edge import Edge
from tests.mcp_server.host import SANDBOX
from tests.mcp_server.ports.conftest import Published

PLACE = Place(ref=SANDBOX, port=8000, prefix="", path=b"/")
SCOPE: dict[str, Any] = {
    "method": "GET",
    "scheme": "http",
    "headers": [(b"host", f"8000-{SANDBOX}.localhost".encode())],
}


@asynccontextmanager
async def tcp_server(edge: Edge, serve: Callable[[SocketStream], Awaitable[None]]) -> AsyncGenerator[Published]:
    """A server of this host for the length of a block, as a port of the sandbox. Its clients may go at any time."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def guarded(client: SocketStream) -> None:
        async with client:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await serve(client)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, guarded)
        yield Published(edge=edge, port=listener.extra(SocketAttribute.local_port))
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def raw_server(edge: Edge, said: bytes, *, wait: bool = False) -> AsyncGenerator[Published]:
    """A server that answers every request with these bytes, and then hangs up unless it is to wait."""

    async def serve(client: SocketStream) -> None:
        await client.receive()
        await client.send(said)
        if wait:
            await client.receive()

    async with tcp_server(edge, serve) as port:
        yield port


@asynccontextmanager
async def socket_server(edge: Edge, frames: bytes) -> AsyncGenerator[Published]:
    """A server that sends these frames together with its answer to the handshake, and waits for the client to close."""

    async def serve(client: SocketStream) -> None:
        wire = ServerProtocol()
        while not (requests := wire.events_received()):
            wire.receive_data(await client.receive())
        (request,) = requests
        assert isinstance(request, Request)
        wire.send_response(wire.accept(request))
        await client.send(b"".join(wire.data_to_send()) + frames)
        while True:
            await client.receive()

    async with tcp_server(edge, serve) as port:
        yield port


class Blurting(ByteStream):
    """The way to a server that answers the request's head, and sends everything else at once.

    A socket would deliver it in pieces of any size, after which everybody has a turn.
    """

    def __init__(self, answer: Callable[[bytes], bytes], said: bytes) -> None:
        self._answer = answer
        self._said = [said]
        self._asked = anyio.Event()
        self._heard = b""
        self.sent: list[bytes] = []
        self.given = anyio.Event()

    async def send(self, item: bytes) -> None:
        if not self._asked.is_set():
            self._heard = item
            self._asked.set()
            return
        self.sent.append(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self._asked.wait()
        if self._heard:
            heard, self._heard = self._heard, b""
            return self._answer(heard)
        if not self._said:
            raise anyio.EndOfStream
        self.given.set()
        return self._said.pop()

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def served(
    run: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope, stream: Blurting
) -> tuple[list[Message], int]:
    """Serve a client that only listens: what it is sent, and the turns that others had after the server's bytes."""
    sent: list[Message] = []
    turns = 0
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked or scope["type"] == "websocket":
            await anyio.sleep_forever()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    async def wait() -> None:
        nonlocal turns
        await stream.given.wait()
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await run(scope, receive, send)
        tasks.cancel_scope.cancel()
    return sent, turns
