"""What the edge's tests share: a running server on a free port, and clients of it."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import anyio
import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent
from starlette.types import ASGIApp

from mcp_server.http.serve import WebServer, listen
from tests.waiting import PATIENCE_S

Era = Literal["legacy", "2026-07-28"]
ERAS: tuple[Era, ...] = ("legacy", "2026-07-28")
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients over plain HTTP: reading the host's authorities takes longer than most tests' calls."""

ACCEPT = {"accept": "application/json, text/event-stream"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A server that runs."""

    url: str
    keys: Mapping[str, str]

    def endpoint(self, path: str = "/api/mcp") -> str:
        return self.url + path

    def http(self, key: str | None = None, **headers: str) -> httpx.AsyncClient:
        """A plain HTTP client: an owner's, one with the given key, or one without any."""
        keyed = {"x-api-key": self.keys.get(key, key)} if key else {}
        return httpx.AsyncClient(base_url=self.url, headers=ACCEPT | keyed | headers, timeout=PATIENCE_S, verify=NO_TLS)

    @asynccontextmanager
    async def client(self, owner: str, era: Era = "2026-07-28", path: str = "/api/mcp") -> AsyncGenerator[Client]:
        """The SDK's client in one of the protocol's eras."""
        async with (
            httpx2.AsyncClient(headers={"x-api-key": self.keys[owner]}, timeout=PATIENCE_S, verify=NO_TLS) as http,
            Client(streamable_http_client(self.endpoint(path), http_client=http), mode=era) as client,
        ):
            yield client


@asynccontextmanager
async def serving(
    app: ASGIApp, keys: Mapping[str, str] | None = None, beside: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> AsyncGenerator[Edge]:
    """Serve an application on a free port for the length of a block, with what has to run beside it."""
    listener = listen("127.0.0.1", 0)
    started, over = anyio.Event(), anyio.Event()
    server = WebServer(app, started.set)

    async def serve() -> None:
        await server.serve([listener])
        over.set()

    async with anyio.create_task_group() as tasks:
        if beside is not None:
            tasks.start_soon(beside)
        tasks.start_soon(serve)
        await started.wait()
        try:
            yield Edge(url=f"http://127.0.0.1:{listener.getsockname()[1]}", keys=keys or {})
        finally:
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await over.wait()
            tasks.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class Tools:
    """One owner's tools, with a sandbox that every call is about."""

    client: Client
    sandbox: str = "box"

    async def __call__(self, tool: str, **arguments: object) -> str:
        """Call a tool that must not fail, and give its text."""
        result = await self.client.call_tool(tool, {"id": self.sandbox, **arguments})
        assert not result.is_error, text_of(result)
        return text_of(result)

    async def refused(self, tool: str, **arguments: object) -> str:
        """Call a tool that must fail, and give its reason."""
        result = await self.client.call_tool(tool, {"id": self.sandbox, **arguments})
        assert result.is_error, text_of(result)
        return text_of(result)


def text_of(result: CallToolResult) -> str:
    """The one text of a result."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def refusal_of(response: httpx.Response) -> dict[str, Any]:
    """A refusal's words, once its request id is seen to be the one that the headers name."""
    body = cast("dict[str, Any]", response.json())
    assert body.pop("requestId") == response.headers["x-request-id"]
    return body


def rpc(method: str, params: dict[str, Any] | None = None, request_id: int | None = 1) -> dict[str, Any]:
    """A JSON-RPC message; without an id it is a notification."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message if request_id is None else message | {"id": request_id}


def initialize(request_id: int = 1) -> dict[str, Any]:
    """The opening message of the older protocols."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    return rpc("initialize", params, request_id)


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON-RPC answer in a response, be it plain JSON or an event."""
    if response.headers["content-type"].startswith("text/event-stream"):
        lines = [line.removeprefix("data:").strip() for line in response.text.splitlines() if line.startswith("data:")]
        return cast("dict[str, Any]", json.loads(next(line for line in lines if line)))
    return cast("dict[str, Any]", response.json())
