"""The tools about snapshots, forks and sleep: what a model gets to read. The sandbox is this host."""

from __future__ import annotations

import json

import anyio
import pytest

from mcp_server.audit.log import AuditLog
from mcp_server.audit.record import BY_ORG
from mcp_server.wire import fork_objects
from storage.collection import Collection, Document
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import Edge, Tools, serving, text_of
from tests.mcp_server.host import SANDBOX, OpenHost
from tests.mcp_server.people import ALICE
from tests.waiting import PATIENCE_S
from vmm.errors import Conflict, HostExhausted
from vmm.lifecycle.forks import Fork
from vmm.lifecycle.unusable import LOST
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

pytestmark = pytest.mark.anyio


async def test_a_snapshot_is_taken_listed_gone_back_to_and_deleted(box: Tools) -> None:
    kept = json.loads(await box("snapshot_sandbox", name="before"))
    assert kept["sizeBytes"] > 0
    assert kept == {
        "id": kept["id"],
        "name": "before",
        "sandboxId": SANDBOX,
        "sandboxName": "box",
        "createdAt": "1970-01-01T00:00:05.000Z",
        "sizeBytes": kept["sizeBytes"],
    }
    assert json.loads(await box("list_snapshots")) == {"snapshots": [kept], "total": 1}
    back = json.loads(await box("restore_snapshot", snapshot=kept["id"][:23]))
    assert (back["id"], back["snapshot"]) == (SANDBOX, kept["id"])
    assert back["undone"] == "All changes since before was taken, 1970-01-01T00:00:05.000Z: files, memory, programs"
    gone = await box.client.call_tool("delete_snapshot", {"snapshot": "before"})
    assert json.loads(text_of(gone)) == {"status": "deleted", "id": kept["id"], "name": "before"}
    assert json.loads(await box("list_snapshots")) == {"snapshots": [], "total": 0}


async def test_many_snapshots_are_told_as_far_as_a_model_can_use_them(box: Tools) -> None:
    first = json.loads(await box("snapshot_sandbox"))
    await box("restore_snapshot", snapshot=first["id"])
    for _ in range(39):
        await box("snapshot_sandbox", name="a-name-of-common-length")
    text = await box("list_snapshots")
    told = json.loads(text)
    assert (len(told["snapshots"]), told["total"]) == (30, 40)
    assert {item["parentId"] for item in told["snapshots"]} == {first["id"]}
    assert len(text) < 12_000


async def test_what_cannot_be_is_told_with_the_way_out(box: Tools) -> None:
    older = json.loads(await box("snapshot_sandbox", name="twin"))
    await box("restore_snapshot", snapshot=older["id"])
    await box("snapshot_sandbox", name="twin")
    twins = [item["id"] for item in json.loads(await box("list_snapshots"))["snapshots"]]
    for refused in (
        await box.refused("restore_snapshot", snapshot="twin"),
        text_of(await box.client.call_tool("delete_snapshot", {"snapshot": "twin"})),
    ):
        assert all(twin in refused for twin in twins)
        assert "Use one of these ids" in refused
    assert "has children: snapshot twin" in text_of(
        await box.client.call_tool("delete_snapshot", {"snapshot": twins[1]})
    )
    assert "There is no snapshot 'nothing'" in await box.refused("restore_snapshot", snapshot="nothing")
    assert "There is no snapshot ''" in await box.refused("restore_snapshot", snapshot="")
    assert "snapshot is missing" in await box.refused("restore_snapshot")
    assert "count must be 1 to 100, got 0" in await box.refused("fork_sandbox", count=0)
    assert "count must be 1 to 100, got 101" in await box.refused("fork_sandbox", count=101)
    assert "ttl must be 0 to 2592000 seconds (30 days), got -1" in await box.refused("update_sandbox", ttl=-1)
    assert "got 31536000" in await box.refused("update_sandbox", ttl=365 * 86400)
    assert "got -5" in await box.refused("update_sandbox", idle=-5)


@pytest.mark.parametrize("room", [4])
async def test_each_child_of_a_fork_is_a_name_to_use_or_a_reason(box: Tools) -> None:
    forks = json.loads(await box("fork_sandbox", count=4))["forks"]
    assert [fork.get("name") for fork in forks] == ["box-1", "box-2", "box-3", None]
    assert all(set(fork) == {"id", "name"} for fork in forks[:3])
    assert set(forks[3]) == {"error", "hint"}
    assert "4096 of" in forks[3]["error"]
    assert forks[3]["error"] in await box.refused("fork_sandbox")


@pytest.mark.parametrize("room", [4])
async def test_a_reason_that_costs_many_copies_is_told_once(box: Tools) -> None:
    forks = json.loads(await box("fork_sandbox", count=100))["forks"]
    assert len(forks) == 4
    assert set(forks[3]) == {"error", "hint", "copies"}
    assert forks[3]["copies"] == 97


def test_a_fork_without_any_child_fails_with_the_reason_of_the_first() -> None:
    errors = HostExhausted("full"), Conflict("gone")
    with pytest.raises(HostExhausted, match="full"):
        fork_objects([Fork(error=error) for error in errors])
    made = Sandbox.new("1" * 24, "a" * 24, SandboxSpec(name="box"), now_ms=0)
    told = fork_objects([Fork(error=errors[1]), Fork(sandbox=made)])
    assert told[0] == {"error": "gone", "hint": ""}
    assert told[1].get("id") == made.id
    assert fork_objects([]) == []


async def test_limits_are_set_shown_and_taken_away(box: Tools) -> None:
    limited = json.loads(await box("update_sandbox", ttl=90, idle=0))
    assert (limited["ttlSeconds"], limited["expiresAt"], limited["idleSeconds"]) == (90, "1970-01-01T00:01:35.000Z", 0)
    assert "expiresAt" not in json.loads(await box("update_sandbox", ttl=0))
    made = await box.client.call_tool("create_sandbox", {"name": "short", "ttl": 60})
    assert json.loads(text_of(made))["ttlSeconds"] == 60


async def test_a_sandbox_that_was_killed_is_started_and_what_is_lost_is_told(
    assemble: Assemble, keys: dict[str, str], open_host: OpenHost
) -> None:
    async with open_host() as fleet:
        services = assemble(fleet)
        async with (
            serving(services.web(), keys, services.identity.run) as edge,
            edge.client("alice") as client,
        ):
            box = Tools(client)
            await fleet.kill(ALICE, "box")
            assert json.loads(await box("get_sandbox"))["status"] == "killed"
            started = json.loads(await box("start_sandbox"))
            assert started["status"] == "running"
            assert started["reason"].startswith("started from its disk")
            assert started["reason"].endswith(LOST)


async def test_a_sandbox_that_sleeps_is_woken_by_any_call(host: Edge) -> None:
    async with host.client("alice") as client, host.http("alice") as http:
        box = Tools(client)
        await http.post(f"/api/sandboxes/{SANDBOX}/sleep")
        asleep = json.loads(await box("get_sandbox"))
        assert asleep["status"] == "snapshotted"
        assert asleep["asleepSince"]
        assert (await box("execute_command", command="echo awake")).startswith("awake")
        assert json.loads(await box("get_sandbox"))["status"] == "running"


async def test_the_end_of_a_snapshot_is_recorded_with_its_sandbox(
    host: Edge, audit_log: AuditLog, records: Collection
) -> None:
    async with host.client("alice") as client, host.http("alice") as http:
        await Tools(client)("snapshot_sandbox", name="first")
        await Tools(client)("snapshot_sandbox", name="second")
        await client.call_tool("delete_snapshot", {"snapshot": "second"})
        await http.delete("/api/snapshots/first")
    found: list[Document] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        with anyio.fail_after(PATIENCE_S):
            while len(found) < 4:
                found = await records.find(BY_ORG, {"org_id": ALICE})
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    named = {record["action"]: record["sandbox"] for record in found}
    assert (named["delete_snapshot"], named["snapshot.delete"]) == (SANDBOX, SANDBOX)
