"""What is recorded of sandbox-api's calls, and what scopes, limits and the list of commands refuse of them."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from auth.roles import Scope
from mcp_server.audit.log import AuditLog
from mcp_server.audit.record import BY_ORG
from mcp_server.identity import Identity
from mcp_server.settings import Settings
from storage.collection import Collection, Document
from tests.mcp_server.edge import Edge, text_of
from tests.mcp_server.people import ALICE
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        sandbox_api=True,
        sandbox_api_pids=0,
        default_image="minimal",
        sandbox_api_commands=("echo", "cat"),
        rate_limit_requests=20,
    )


async def test_every_call_of_both_surfaces_is_recorded_and_refusals_too(
    edge: Edge, audit_log: AuditLog, records: Collection
) -> None:
    async with edge.http("alice") as http, edge.client("alice", path="/mcp") as client:
        done = await http.post("/execute", json={"command": "echo 1", "session_id": "s"})
        assert done.status_code == 200, done.text
        refused = await http.post("/execute", json={"command": "cat x; rm x", "session_id": "s"})
        assert refused.status_code == 400
        assert refused.json()["detail"] == (
            "Command not allowed by whitelist. rm is not one of the allowed commands: cat, echo"
        )
        assert not (await client.call_tool("execute", {"session_id": "s", "command": "false"})).is_error
        said = await client.call_tool("execute", {"session_id": "s", "command": "echo 'open"})
        assert said.is_error
        assert "Command not allowed by whitelist. the line cannot be parsed" in text_of(said)
        await client.call_tool("delete_session", {"session_id": "s"})
    found: list[Document] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        with anyio.fail_after(PATIENCE_S):
            while len(found := await records.find(BY_ORG, {"org_id": ALICE})) < 5:
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    seen = [(one["surface"], one["action"], one["decision"], one["exit_code"]) for one in found]
    assert sorted(seen) == [
        ("mcp", "delete_session", "allowed", -1),
        ("mcp", "execute", "allowed", 1),
        ("mcp", "execute", "refused", -1),
        ("rest", "session.execute", "allowed", 0),
        ("rest", "session.execute", "refused", -1),
    ]


async def test_a_key_that_may_only_read_looks_and_does_not_touch(edge: Edge, identity: Identity) -> None:
    (alice,) = await identity.keys.list(ALICE)
    made = await identity.keys.create(
        org_id=ALICE, created_by=alice.created_by, name="reader", scopes=frozenset({Scope.READ})
    )
    reader = Edge(url=edge.url, keys={"reader": made.plain})
    async with reader.http("reader") as http, reader.client("reader", path="/mcp") as client:
        assert (await http.get("/sessions")).status_code == 200
        for answer in (
            await http.post("/execute", json={"command": "echo", "session_id": "s"}),
            await http.post("/sessions", json={"session_id": "s"}),
            await http.put("/sessions/s/workspace/content", params={"path": "a"}),
            await http.delete("/sessions/s"),
        ):
            assert answer.status_code == 403
            assert answer.json()["detail"] == "This needs the scope run; the credential has read"
        assert (await client.call_tool("execute", {"session_id": "s", "command": "echo"})).is_error
        assert not (await client.call_tool("workspace_list", {"session_id": "s"})).is_error


async def test_the_limit_counts_every_call_of_both_surfaces(edge: Edge) -> None:
    async with edge.http("alice") as http:
        for _ in range(20):
            assert (await http.get("/sessions")).status_code == 200
        over = await http.delete("/sessions/s")
        assert (over.status_code, over.json()["detail"]) == (429, "Rate limit exceeded")
        assert int(over.headers["retry-after"]) > 0
        call = {"name": "delete_session", "arguments": {"session_id": "s"}}
        answer = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
        assert answer.json()["result"]["isError"] is True
