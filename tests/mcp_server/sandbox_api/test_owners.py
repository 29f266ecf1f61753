"""Whose a session is: nobody can name somebody else's, whatever they call it by."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from auth.principal import Principal
from mcp_server.sandbox_api.names import owner_of, sandbox_name
from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge, text_of
from vmm.sandboxes.spec import check_name

pytestmark = pytest.mark.anyio

FIRST, SECOND = "abcdefgh" + "1" * 24, "abcdefgh" + "2" * 24
"""Two configured keys that begin with the same eight characters."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        sandbox_api=True,
        sandbox_api_pids=0,
        default_image="minimal",
        api_keys=(SecretStr(FIRST), SecretStr(SECOND)),
    )


@pytest.fixture
async def hers(edge: Edge) -> AsyncGenerator[dict[str, str]]:
    """Alice's session `s`, with a file."""
    async with edge.http("alice") as alice:
        made = (await alice.post("/sessions", json={"session_id": "s"})).json()
        await alice.put("/sessions/s/workspace/content", params={"path": "hers"}, content=b"hers")
        yield made
        assert (await alice.get("/sessions/s")).json()["sandbox_id"] == made["sandbox_id"]
        assert (await alice.get("/sessions/s/workspace/content", params={"path": "hers"})).status_code == 200


async def test_a_foreign_session_is_an_unknown_one(edge: Edge, hers: dict[str, str]) -> None:
    async with edge.http("bob") as bob:
        for method, path, query in (
            ("GET", "/sessions/{}", {}),
            ("GET", "/sessions/{}/workspace", {}),
            ("GET", "/sessions/{}/workspace/content", {"path": "hers"}),
            ("DELETE", "/sessions/{}/workspace", {"path": "hers"}),
            ("DELETE", "/sessions/{}", {}),
        ):
            foreign = await bob.request(method, path.format("s"), params=query)
            unknown = await bob.request(method, path.format("z"), params=query)
            assert _blind(foreign) == _blind(unknown), path
        assert (await bob.get("/sessions")).json() == {"sessions": []}


async def test_the_same_name_is_another_session_for_another_owner(edge: Edge, hers: dict[str, str]) -> None:
    async with edge.http("bob") as bob:
        done = await bob.post("/execute", json={"command": "true", "session_id": "s"})
        assert done.json()["sandbox_id"] != hers["sandbox_id"]
    async with edge.client("bob", path="/mcp") as bob:
        made = await bob.call_tool("create_session", {"session_id": "s"})
        assert hers["sandbox_id"] not in text_of(made)
        assert not (await bob.call_tool("delete_session", {"session_id": "s"})).is_error


async def test_a_sandboxs_id_or_name_is_no_session(edge: Edge, hers: dict[str, str]) -> None:
    async with edge.http("alice") as alice:
        for name in (hers["sandbox_id"], hers["container_id"], sandbox_name("s")):
            assert (await alice.get(f"/sessions/{name}")).status_code == 404


async def test_keys_with_the_same_beginning_are_different_callers(edge: Edge) -> None:
    made: list[str] = []
    for key in (FIRST, SECOND):
        async with edge.http(key) as client:
            made.append((await client.post("/sessions", json={"session_id": "s"})).json()["sandbox_id"])
            assert len((await client.get("/sessions")).json()["sessions"]) == 1
    assert made[0] != made[1]
    # Both stand for the local user elsewhere, who does not see what belongs to one key alone.
    async with edge.http(FIRST) as client:
        for sandbox in made:
            assert (await client.get(f"/api/sandboxes/{sandbox}")).status_code == 404


async def test_the_owner_sees_the_sandbox_of_a_session_among_all_others(edge: Edge, hers: dict[str, str]) -> None:
    async with edge.http("alice") as alice:
        (one,) = (await alice.get("/api/sandboxes")).json()["data"]
        assert (one["id"], one["network"], one["labels"]) == (hers["sandbox_id"], "none", {"sandbox-api": "session"})


def test_every_name_of_a_session_makes_a_name_of_a_sandbox() -> None:
    for name in ("s", "a b", "../..", "x" * 256, "\x7f", "名"):
        check_name(sandbox_name(name))
    who = Principal(org_id="a" * 24, user_id="u")
    assert owner_of(who) == "a" * 24
    assert owner_of(replace(who, key_id="b" * 24)) == "a" * 24


def _blind(answer: httpx.Response) -> tuple[int, object]:
    body = answer.json()
    body.pop("requestId", None)
    body.pop("session_id", None)
    return answer.status_code, body
