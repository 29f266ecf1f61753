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

from auth.users import User
from tests.auth.rig import Rig

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
async def http(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    server = MCPServer("test", log_level="WARNING", subscriptions=False)

    @server.tool()
    async def who() -> str:
        """The caller's organisation."""
        token = get_access_token()
        return f"org {token.subject if token else None}"

    assert who
    server.streamable_http_app(json_response=True)
    app = rig.gate(AuthContextMiddleware(StreamableHTTPASGIApp(server.session_manager)))
    transport = httpx.ASGITransport(app)
    async with (
        server.session_manager.run(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as it,
    ):
        yield it


async def caller(http: httpx.AsyncClient, rig: Rig, owner: tuple[User, str]) -> Caller:
    return Caller(http, (await rig.key(*owner)).plain)


async def test_the_owner_uses_the_session_with_any_of_its_keys(http: httpx.AsyncClient, rig: Rig) -> None:
    ada = await rig.user("ada")
    first, second = await caller(http, rig, ada), await caller(http, rig, ada)
    session = await first.open_session()
    for own in (first, second):
        answer = await own.who(session)
        assert answer.status_code == 200
        assert f"org {ada[1]}" in answer.text


async def test_somebody_else_gets_the_answer_of_an_unknown_session(http: httpx.AsyncClient, rig: Rig) -> None:
    alice, bob = [await caller(http, rig, await rig.user(name)) for name in ("alice", "bob")]
    session = await alice.open_session()
    foreign, unknown = await bob.who(session), await bob.who("0" * 32)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json()
    assert (await alice.who(session)).status_code == 200


async def test_a_revoked_key_loses_its_session(http: httpx.AsyncClient, rig: Rig) -> None:
    user, org_id = await rig.user("alice")
    alice = await caller(http, rig, (user, org_id))
    session = await alice.open_session()
    await rig.keys.revoke(org_id, (await rig.keys.list(org_id))[0].id)
    assert (await alice.who(session)).status_code == 401
