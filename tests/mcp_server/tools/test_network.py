"""The network in the tools: what a model may set, and what it is told about what was refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest

from mcp_server.audit.log import AuditLog
from mcp_server.audit.record import BY_ORG
from mcp_server.tools.reach import reach
from storage.collection import Collection, Document
from tests.mcp_server.edge import Edge, Tools, text_of
from tests.mcp_server.host import OneHost
from tests.mcp_server.people import ALICE
from tests.waiting import PATIENCE_S
from vmm.network.policy import Policy

pytestmark = pytest.mark.anyio

REFUSED = '[network: refused example.com:443 by policy "packages"; to allow: update_sandbox(network=...)]'


async def made(box: Tools, **arguments: object) -> dict[str, object]:
    return json.loads(text_of(await box.client.call_tool("create_sandbox", {"name": "more", **arguments})))


async def network(box: Tools, sandbox: str = "box") -> dict[str, object]:
    return json.loads(await box("get_sandbox", id=sandbox))["network"]


async def test_a_sandbox_without_a_policy_has_the_servers(box: Tools) -> None:
    assert await network(box) == {"policy": "internet", "way": "user mode"}
    assert "network" not in await made(box)


@pytest.mark.parametrize(
    "written", ["443/tcp, Example.com,198.51.100.7", ["198.51.100.7", "example.com", "443/tcp"]], ids=["text", "list"]
)
async def test_a_policy_is_a_text_or_a_list(box: Tools, written: object) -> None:
    text = "example.com,198.51.100.7,443/tcp"
    assert (await made(box, network=written))["network"] == text
    assert json.loads(await box("update_sandbox", network=written))["network"] == text
    assert (await network(box))["policy"] == text


async def test_the_servers_policy_comes_back_by_its_word_and_an_empty_text_changes_nothing(box: Tools) -> None:
    await box("update_sandbox", network=["none"])
    assert "Nothing to change" in await box.refused("update_sandbox", network="")
    await box("update_sandbox", network="", ttl=60)
    assert (await network(box))["policy"] == "none"
    assert "network" not in json.loads(await box("update_sandbox", network="default"))
    assert (await network(box))["policy"] == "internet"


@pytest.mark.parametrize("written", ["0.0.0.0/0", "example.com:443", [], ["internet", "example.com"], ["*"], "udp"])
async def test_what_is_no_policy_is_refused_and_nothing_changes(box: Tools, written: object) -> None:
    assert (await box.refused("update_sandbox", network=written)).startswith("network must ")
    refused = await box.client.call_tool("create_sandbox", {"name": "more", "network": written})
    assert text_of(refused).startswith("network must ")
    assert await network(box) == {"policy": "internet", "way": "user mode"}


async def test_a_fork_has_its_parents_policy_and_a_snapshot_that_of_its_moment(box: Tools) -> None:
    await box("update_sandbox", network="example.com")
    (fork,) = json.loads(await box("fork_sandbox"))["forks"]
    assert (await network(box, fork["id"]))["policy"] == "example.com"
    await box("snapshot_sandbox", name="before")
    await box("update_sandbox", network="packages")
    assert (await made(box, snapshot="before"))["network"] == "example.com"
    assert (await made(box, snapshot="before", network="none"))["network"] == "none"
    assert "network" not in await made(box, snapshot="before", network="default")


async def test_the_last_destinations_are_shown_newest_first_and_each_once(box: Tools, fleet_of_one: OneHost) -> None:
    for number in range(7):
        fleet_of_one.allows(f"n{number}.example.com", port=80)
        fleet_of_one.allows("n0.example.com", port=80)
    fleet_of_one.refuses("example.org", protocol="dns", port=53)
    shown = await network(box)
    assert shown["refused"] == ["example.org"]
    assert shown["allowed"] == [f"n{number}.example.com:80" for number in (0, 6, 5, 4, 3)]


@pytest.mark.parametrize("tool", ["execute_command", "run_code"])
async def test_a_result_ends_with_what_was_refused_while_it_ran(
    box: Tools, fleet_of_one: OneHost, tmp_path: Path, tool: str
) -> None:
    fleet_of_one.refuses("before.example.com")
    line = f"touch {tmp_path}/began; until test -e {tmp_path}/go; do sleep 0.02; done; echo done; exit 7"
    what = {"command": line} if tool == "execute_command" else {"code": line, "language": "bash"}
    texts: list[str] = []

    async def call() -> None:
        texts.append(await box(tool, **what))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while not (tmp_path / "began").exists():
                await anyio.sleep(0.02)
            fleet_of_one.refuses("example.com")
            fleet_of_one.refuses("example.com")
            fleet_of_one.allows("example.org")
            (tmp_path / "go").touch()
    assert re.fullmatch(rf"done\n\[exit 7 \| \d+ ms\]\n{re.escape(REFUSED)}", texts[0])
    assert "[network" not in await box("execute_command", command="true")


async def test_what_a_background_command_was_refused_is_told_once_by_the_next_reading(
    box: Tools, fleet_of_one: OneHost
) -> None:
    started = re.search(r"pid (\d+)", await box("run_background_command", command="sleep 1000"))
    assert started is not None
    pid = int(started[1])
    fleet_of_one.refuses("example.com")
    assert (await box("read_process_output", pid=pid)).endswith(f"\n{REFUSED}")
    assert "[network" not in await box("read_process_output", pid=pid)
    fleet_of_one.refuses("example.org")
    assert "example.org:443" in await box("read_process_output", pid=pid)


async def test_a_change_of_the_policy_is_in_the_audit(
    box: Tools, host: Edge, audit_log: AuditLog, records: Collection
) -> None:
    await box("update_sandbox", network=["example.com", "443/tcp"])
    async with host.http("alice") as http:
        assert (await http.patch("/api/sandboxes/box", json={"network": "none"})).status_code == 200
    found: list[Document] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        with anyio.fail_after(PATIENCE_S):
            while len(found := await records.find(BY_ORG, {"org_id": ALICE})) < 2:
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    arguments = {record["action"]: json.loads(record["arguments"])["network"] for record in found}
    assert arguments == {"update_sandbox": ["example.com", "443/tcp"], "sandbox.update": "none"}


@pytest.mark.parametrize(
    ("default", "says"),
    [
        ("none", "They have no network."),
        ("internet", "They reach the internet by TCP, but no private addresses."),
        ("packages", "They reach package registries, and nothing else."),
        ("example.com,443/tcp", "They reach only example.com, 443/tcp."),
    ],
)
def test_the_instructions_say_in_a_line_what_sandboxes_reach(default: str, says: str) -> None:
    assert reach(Policy.parse(default), "user mode").startswith(says)
    assert "\n" not in reach(Policy.parse(default), "user mode")


def test_a_long_default_is_cut_in_the_instructions() -> None:
    assert len(reach(Policy.parse([f"n{number}.example.com" for number in range(200)]), "taps")) < 300


async def test_the_instructions_are_those_of_the_servers_policy(host: Edge) -> None:
    async with host.client("alice", "legacy") as client:
        assert "They reach the internet by TCP" in (client.instructions or "")


def test_with_taps_the_instructions_do_not_say_that_there_is_tcp_alone() -> None:
    assert "by TCP" in reach(Policy.parse("internet"), "user mode")
    assert "by TCP" not in reach(Policy.parse("internet"), "taps")
    assert "by TCP" in reach(Policy.parse("learn"), "taps")
