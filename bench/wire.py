"""The least that speaks HTTP to a server, so that those who measure take little of the processor that they measure."""

from __future__ import annotations

import asyncio
import json
from typing import cast
from urllib.parse import urlsplit

_CALL = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "list_sandboxes",
            "arguments": {},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "0"},
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
).encode()


def list_sandboxes(url: str, key: str) -> bytes:
    """A tool call that does nothing, as a current client sends it."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nx-api-key: {key}\r\n"
        "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: list_sandboxes\r\n"
        f"content-length: {len(_CALL)}\r\n\r\n"
    )
    return head.encode() + _CALL


class Connection(asyncio.Protocol):
    """A connection that is kept: one request at a time, each with an answer that says its length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._got = b""

    @classmethod
    async def to(cls, url: str) -> Connection:
        """Connect to the server of an address."""
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        return (await asyncio.get_running_loop().create_connection(cls, parts.hostname, parts.port))[1]

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, and give the status and the body of its answer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not every loop's transports are of that class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if len(body) >= int(length) and self._answer is not None:
            self._got = b""
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server hung up"))
