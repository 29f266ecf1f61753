"""Local mode: no key is asked for, and nobody but this machine's own programs can make use of that."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_server.settings import Settings
from tests.mcp_server.edge import ERAS, Edge, Era, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, local_mode=True)


async def test_without_a_key_the_caller_is_the_local_user(edge: Edge) -> None:
    async with edge.http() as http:
        me = (await http.get("/api/users/me")).json()
    assert (me["email"], me["method"], me["operator"]) == ("local@localhost", "local", True)


@pytest.mark.parametrize("era", ERAS)
async def test_mcp_needs_no_key_either(edge: Edge, era: Era) -> None:
    async with (
        create_mcp_http_client() as http,
        Client(streamable_http_client(edge.endpoint(), http_client=http), mode=era) as client,
    ):
        assert '"total":0' in text_of(await client.call_tool("list_sandboxes", {}))


async def test_a_key_that_is_given_is_checked_as_ever(edge: Edge) -> None:
    async with edge.http("alice") as alice, edge.http("cm_" + "x" * 43) as wrong:
        assert (await alice.get("/api/users/me")).json()["email"] == "alice@example.org"
        assert (await wrong.get("/api/users/me")).status_code == 401
        both = await alice.get("/api/users/me", headers={"authorization": "Bearer also"})
    assert both.status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403)],
)
@pytest.mark.parametrize("path", ["/api/users/me", "/api/sandboxes", "/api/mcp"])
async def test_web_pages_and_rebound_names_are_kept_out(
    edge: Edge, path: str, headers: dict[str, str], status: int
) -> None:
    async with edge.http() as http:
        assert (await http.get(path, headers=headers)).status_code == status
