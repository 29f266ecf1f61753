"""What a key is good for: tools that look need `read`, tools that act need `run`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from auth.roles import Scope
from mcp_server.audit.log import AuditLog
from mcp_server.audit.record import BY_ORG
from mcp_server.identity import Identity
from storage.collection import Collection, Document
from tests.mcp_server.edge import ERAS, Edge, Era, text_of
from tests.mcp_server.host import SANDBOX
from tests.mcp_server.people import ALICE
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

KeyMaker = Callable[[Scope], Awaitable[str]]


@pytest.fixture
def a_key_for(identity: Identity, keys: dict[str, str]) -> KeyMaker:
    """Makes keys of alice that are good for one scope."""

    async def made(scope: Scope) -> str:
        assert keys
        alice = await identity.accounts.users.by_email("alice@example.org")
        assert alice is not None
        return (
            await identity.keys.create(org_id=ALICE, created_by=alice.id, name=scope, scopes=frozenset({scope}))
        ).plain

    return made


@pytest.mark.parametrize("era", ERAS)
async def test_a_key_that_may_only_read_looks_and_does_not_touch(host: Edge, a_key_for: KeyMaker, era: Era) -> None:
    keys = {"reader": await a_key_for(Scope.READ)}
    async with Edge(url=host.url, keys=keys).client("reader", era) as client:
        listed = await client.call_tool("list_sandboxes", {})
        assert SANDBOX in text_of(listed) and not listed.is_error
        for tool, arguments in (
            ("execute_command", {"id": "box", "command": "touch /tmp/never"}),
            ("write_file", {"id": "box", "path": "/tmp/never", "content": ""}),
            ("delete_sandbox", {"id": "box"}),
            ("create_sandbox", {"name": "more"}),
        ):
            refused = await client.call_tool(tool, arguments)
            assert refused.is_error
            assert text_of(refused) == (
                "This needs the scope run; the credential has read. Ask for a key with the scope run."
            )
        gone = await client.call_tool("file_info", {"id": "box", "path": "/tmp/never"})
        assert gone.is_error
        assert [str(item.uri) for item in (await client.list_resources()).resources] == ["casemate://sandboxes"]


async def test_a_key_that_may_run_does_both_and_administers_nothing(host: Edge, a_key_for: KeyMaker) -> None:
    keys = {"runner": await a_key_for(Scope.RUN)}
    runner = Edge(url=host.url, keys=keys)
    async with runner.client("runner") as client:
        assert "done" in text_of(await client.call_tool("execute_command", {"id": "box", "command": "echo done"}))
        assert not (await client.call_tool("get_sandbox", {"id": "box"})).is_error
    async with runner.http("runner") as http:
        refused = await http.post("/api/orgs/users", json={"email": "bob@example.org"})
    assert refused.status_code == 403
    assert refused.json()["error"] == "This needs the scope admin; the credential has read, run"


async def test_a_refusal_for_want_of_a_scope_is_recorded(
    host: Edge, a_key_for: KeyMaker, audit_log: AuditLog, records: Collection
) -> None:
    keys = {"reader": await a_key_for(Scope.READ)}
    async with Edge(url=host.url, keys=keys).client("reader") as client:
        assert (await client.call_tool("delete_sandbox", {"id": "box"})).is_error
    found: list[Document] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        with anyio.fail_after(PATIENCE_S):
            while not (found := await records.find(BY_ORG, {"org_id": ALICE})):
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    (record,) = found
    assert (record["action"], record["decision"]) == ("delete_sandbox", "refused")
    assert record["reason"] == "This needs the scope run; the credential has read"
