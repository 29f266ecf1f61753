"""Who calls too often is told so in the protocol's own terms, and may go on after a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mcp_server.settings import Settings
from tests.mcp_server.edge import ACCEPT, ERAS, Edge, Era, answer_of, initialize, rpc, text_of

pytestmark = pytest.mark.anyio

MODERN = {"mcp-protocol-version": "2026-07-28"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, rate_limit_requests=12, rate_limit_window_seconds=600)


@pytest.fixture
async def exhausted(edge: Edge) -> AsyncGenerator[Edge]:
    """A server on which alice has made all of her calls."""
    async with edge.http("alice") as http:
        for _ in range(12):
            assert (await http.get("/api/users/me")).status_code == 200
    yield edge


async def test_every_answer_says_what_is_left(edge: Edge) -> None:
    async with edge.http("alice") as http:
        left = [int((await http.get("/api/users/me")).headers["ratelimit-remaining"]) for _ in range(3)]
        answer = await http.post("/api/mcp", json=initialize())
    assert left == [11, 10, 9]
    assert answer.headers["ratelimit-limit"] == "12"
    assert answer.headers["ratelimit-remaining"] == "8"
    assert 1 <= int(answer.headers["ratelimit-reset"]) <= 600


@pytest.mark.parametrize("headers", [{}, MODERN], ids=["older", "modern"])
async def test_a_tool_call_over_the_limit_is_a_result_that_a_model_can_read(
    exhausted: Edge, headers: dict[str, str]
) -> None:
    async with exhausted.http("alice", **headers) as http:
        response = await http.post("/api/mcp", json=rpc("tools/call", {"name": "list_sandboxes", "arguments": {}}, 7))
    assert response.status_code == 200
    assert 1 <= int(response.headers["retry-after"]) <= 600
    answer = answer_of(response)
    assert answer["id"] == 7
    assert answer["result"]["isError"] is True
    assert "Too many calls with this key: wait" in answer["result"]["content"][0]["text"]
    assert answer["result"].get("resultType") == ("complete" if headers else None)


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_goes_on_after_a_call_that_was_one_too_many(edge: Edge, era: Era) -> None:
    async with edge.client("alice", era) as client:
        texts = [text_of(await client.call_tool("list_sandboxes", {})) for _ in range(12)]
    assert '"total":0' in texts[0]
    assert "Too many calls" in texts[-1]


@pytest.mark.parametrize("message", [rpc("tools/list", {}, 3), initialize(3)], ids=["tools/list", "initialize"])
async def test_any_other_request_over_the_limit_is_an_error_of_the_protocol(
    exhausted: Edge, message: dict[str, object]
) -> None:
    async with exhausted.http("alice") as http:
        response = await http.post("/api/mcp", json=message)
    assert response.status_code == 429
    assert response.json()["id"] == 3
    assert "wait" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[1]", b'{"method":"tools/call"}', b'{"id":{},"method":"tools/call"}', b"[" * 100_000],
    ids=["nothing", "no JSON", "no object", "no id", "no such id", "too deep"],
)
async def test_what_is_no_request_is_told_plainly(exhausted: Edge, body: bytes) -> None:
    async with exhausted.http("alice") as http:
        response = await http.post("/api/mcp", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 429
    assert response.json()["error"] == "Too many calls with this key"
    assert int(response.headers["retry-after"]) >= 1


async def test_rest_and_mcp_share_the_limit_and_others_go_on(exhausted: Edge) -> None:
    async with exhausted.http("alice") as alice, exhausted.http("bob") as bob:
        assert (await alice.get("/api/sandboxes")).status_code == 429
        assert (await alice.get("/api/mcp", headers=ACCEPT)).status_code == 429
        assert (await bob.get("/api/sandboxes")).status_code == 200
