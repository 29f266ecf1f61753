"""Sessions of the older MCP protocols belong to the owner of the key that opened them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp

from auth.keys import KeyStore
from auth.middleware import ApiKeyAuth

pytestmark = pytest.mark.anyio

PROTOCOL = "2025-11-25"


@dataclass(frozen=True, slots=True)
class Caller:
    """One key, and the plain HTTP requests that are made with it."""

    http: httpx.AsyncClient
    key: str

    async def post(self, method: str, params: dict[str, Any], *, session: str = "") -> httpx.Response:
        headers = {
            "X-API-Key": self.key,
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": PROTOCOL,
        }
        if session:
            headers["Mcp-Session-Id"] = session
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if not method.startswith("notifications/"):
            message["id"] = 1
        return await self.http.post("/mcp", headers=headers, json=message)

    async def open_session(self) -> str:
        client = {"name": "test", "version": "1"}
        parameters = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client}
        answer = await self.post("initialize", parameters)
        assert answer.status_code == 200
        session = answer.headers["mcp-session-id"]
        assert (await self.post("notifications/initialized", {}, session=session)).status_code == 202
        return session

    async def who(self, session: str) -> httpx.Response:
        return await self.post("tools/call", {"name": "who", "arguments": {}}, session=session)


@pytest.fixture
async def http(keys: KeyStore) -> AsyncIterator[httpx.AsyncClient]:
    server = MCPServer("test", log_level="WARNING", subscriptions=False)

    @server.tool()
    async def who() -> str:
        """The caller's organisation."""
        token = get_access_token()
        return f"org {token.subject if token else None}"

    assert who
    server.streamable_http_app(json_response=True)
    app = ApiKeyAuth(AuthContextMiddleware(StreamableHTTPASGIApp(server.session_manager)), keys)
    transport = httpx.ASGITransport(app)
    async with (
        server.session_manager.run(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as it,
    ):
        yield it


async def caller(http: httpx.AsyncClient, keys: KeyStore, org_id: str) -> Caller:
    made = await keys.create(org_id=org_id, created_by="c" * 24, name="key")
    return Caller(http, made.plain)


async def test_the_owner_uses_the_session_with_any_of_its_keys(http: httpx.AsyncClient, keys: KeyStore) -> None:
    first, second = await caller(http, keys, "a" * 24), await caller(http, keys, "a" * 24)
    session = await first.open_session()
    for own in (first, second):
        answer = await own.who(session)
        assert answer.status_code == 200
        assert "org " + "a" * 24 in answer.text


async def test_somebody_else_gets_the_answer_of_an_unknown_session(http: httpx.AsyncClient, keys: KeyStore) -> None:
    alice, bob = await caller(http, keys, "a" * 24), await caller(http, keys, "b" * 24)
    session = await alice.open_session()
    foreign, unknown = await bob.who(session), await bob.who("0" * 32)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json()
    assert (await alice.who(session)).status_code == 200


async def test_a_revoked_key_loses_its_session(http: httpx.AsyncClient, keys: KeyStore) -> None:
    alice = await caller(http, keys, "a" * 24)
    session = await alice.open_session()
    await keys.revoke("a" * 24, (await keys.list("a" * 24))[0].id)
    assert (await alice.who(session)).status_code == 401
