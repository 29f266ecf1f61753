"""Streamed requests and answers, which end when the client disconnects or stalls."""

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
"""How long a client may read nothing of an answer, or send nothing of an unfinished body."""


class Answer:
    """An answer that is sent in parts: first the head, then chunks, then the end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send the status and the headers, whose names are in lower case."""
        self._begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, piece: bytes) -> None:
        """Send a chunk, waiting for a slow client.

        Raises:
            TimeoutError: The client has read nothing for a minute.
        """
        with anyio.fail_after(_STALL_S):
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """Send the end, if the answer has begun."""
        if self._begun:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Streamed(Response):
    """An answer that a function streams.

    Args:
        serve: Sends the answer, except its end. An exception before the head becomes an error answer; a later one
            breaks the answer off, so that the client sees that it is incomplete.
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
    """Cancel a block when the client disconnects. The body must be read already; the answer must not end in the block.

    Raises:
        ClientDisconnect: The client disconnected.
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
    """Yield a request's body as it arrives.

    Raises:
        ClientDisconnect: The client disconnected before the end of the body.
        TimeoutError: The client has sent nothing for a minute.
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
