"""Answers that take their time: sent piece by piece, ended when the client goes away or stops reading."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_STALL_S = 60
"""How long a client may leave what it was sent unread, or send nothing in the middle of what it sends."""


class Answer:
    """What is sent while it comes about: first the head, then pieces, then the end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers, named in lower case."""
        self._begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, piece: bytes) -> None:
        """Send a piece, waiting for a slow client.

        Raises:
            TimeoutError: It has not read anything for a minute.
        """
        with anyio.fail_after(_STALL_S):
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """Send the end, if there was a beginning."""
        if self._begun:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Streamed(Response):
    """An answer that a function sends.

    Args:
        serve: Sends it, but for its end. What it raises before it begins is answered like any failure; later it breaks
            the answer off, so that the client sees that something is missing.
    """

    def __init__(self, serve: Callable[[Receive, Answer], Awaitable[None]]) -> None:
        super().__init__()
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        answer = Answer(send)
        await self._serve(receive, answer)
        await answer.end()


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncGenerator[None]:
    """Cancel a block when the client goes away. The body must have been read before; the answer must not end within.

    Raises:
        ClientDisconnect: It went.
    """
    gone = False
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()
    if gone:
        raise ClientDisconnect


async def incoming(receive: Receive) -> AsyncGenerator[bytes]:
    """A request's body as it comes.

    Raises:
        ClientDisconnect: The client went away before its end.
        TimeoutError: It has not sent anything for a minute.
    """
    more = True
    while more:
        with anyio.fail_after(_STALL_S):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]
