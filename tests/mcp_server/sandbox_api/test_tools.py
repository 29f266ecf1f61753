"""Sandbox-api's MCP endpoint, with the SDK's client in both eras of the protocol."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mcp_server.edge import ERAS, Edge, Era, answer_of, initialize, rpc, text_of

pytestmark = pytest.mark.anyio

TOOLS = {
    "create_session": (["session_id"], {"session_id"}),
    "delete_session": (["session_id"], {"session_id"}),
    "execute": (["session_id", "command"], {"session_id", "command", "timeout", "working_dir"}),
    "workspace_list": (["session_id"], {"session_id", "path"}),
    "workspace_read": (["session_id", "path"], {"session_id", "path"}),
    "workspace_write": (["session_id", "path", "content"], {"session_id", "path", "content"}),
    "workspace_delete": (["session_id", "path"], {"session_id", "path"}),
}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
@pytest.mark.parametrize("era", ERAS)
async def test_its_tools_have_their_names_and_arguments_at_both_spellings(edge: Edge, era: Era, path: str) -> None:
    async with edge.client("alice", era, path) as client:
        tools = (await client.list_tools()).tools
        # A client that is told the newer protocol does not ask for the name.
        name = "" if client.server_info is None else client.server_info.name
        assert name == ("Sandbox API" if era == "legacy" else "")
        schemas = {tool.name: tool.input_schema for tool in tools}
        assert {name: (one["required"], set(one["properties"])) for name, one in schemas.items()} == TOOLS
        assert all(tool.output_schema and tool.annotations for tool in tools)


@pytest.mark.parametrize("era", ERAS)
async def test_a_sessions_life(edge: Edge, era: Era) -> None:
    async with edge.client("alice", era, "/mcp/") as client:

        async def call(tool: str, **arguments: object) -> dict[str, Any]:
            result = await client.call_tool(tool, {"session_id": "s", **arguments})
            assert not result.is_error, text_of(result)
            assert result.structured_content is not None
            return result.structured_content

        created = await call("create_session")
        assert set(created) == {"session_id", "container_id", "sandbox_id"}
        done = await call("execute", command="echo hi; exit 2", timeout=100_000)
        assert (done["stdout"], done["exit_code"], done["container_id"]) == ("hi\n", 2, created["container_id"])
        assert await call("workspace_write", path="a/b", content="text") == {"status": "written", "path": "a/b"}
        assert await call("workspace_list") == {"entries": [{"name": "a", "type": "dir"}]}
        assert await call("workspace_read", path="a/b") == {"content": "text", "encoding": "utf8"}
        assert await call("workspace_delete", path="a") == {"status": "deleted", "path": "a"}
        assert await call("delete_session") == {"status": "deleted", "session_id": "s"}


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("workspace_read", {"session_id": "s", "path": "none"}, "Path not found"),
        ("workspace_write", {"session_id": "s", "path": "../x", "content": ""}, "Path escapes workspace"),
        ("execute", {"session_id": "", "command": "ls"}, "session_id=''"),
        ("execute", {"session_id": "s", "command": " "}, "command is empty"),
        ("execute", {"session_id": "s"}, "command is missing"),
        ("none", {}, "Available tools: create_session"),
    ],
)
async def test_an_error_is_one(edge: Edge, tool: str, arguments: dict[str, object], said: str) -> None:
    async with edge.client("alice", path="/mcp") as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert said in text_of(result)


async def test_an_unbalanced_quote_is_the_shells_error(edge: Edge) -> None:
    async with edge.client("alice", path="/mcp") as client:
        result = await client.call_tool("execute", {"session_id": "s", "command": "echo 'open"})
    assert not result.is_error
    assert result.structured_content is not None
    assert "unexpected EOF" in result.structured_content["stderr"]


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_without_a_key_not_even_the_tools_are_listed(edge: Edge, path: str) -> None:
    async with edge.http() as nobody:
        for message in (initialize(), rpc("tools/list")):
            answer = await nobody.post(path, json=message)
            assert (answer.status_code, answer.json()["error"][:23]) == (401, "authentication required")


async def test_casemates_own_endpoint_is_as_before(edge: Edge) -> None:
    async with edge.client("alice") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
    assert "create_sandbox" in names
    assert not names & set(TOOLS)
    async with edge.http("alice") as alice:
        answer = await alice.post("/mcp", json=initialize())
    assert answer_of(answer)["result"]["serverInfo"]["name"] == "Sandbox API"
