"""The whole way from a client's call into a real machine and back."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tests.mcp_server.edge import ERAS, Edge, Era, Tools, answer_of, initialize, rpc, text_of
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SMALL = {"image": "minimal", "mem": 512}


async def create(client: Client, name: str, **arguments: object) -> dict[str, Any]:
    result = await client.call_tool("create_sandbox", {"name": name, **SMALL, **arguments})
    assert not result.is_error, text_of(result)
    return json.loads(text_of(result))


@pytest.mark.parametrize("era", ERAS)
async def test_a_sandbox_lives_from_its_creation_to_its_end(server: Edge, era: Era) -> None:
    async with server.client("alice", era) as client:
        made = await create(client, "box", labels={"team": "red"}, envVars={"GREETING": "hello"})
        assert re.fullmatch(r"[0-9a-f]{24}", made["id"])
        assert {
            "status": "running",
            "image": "minimal:latest",
            "cpu": 1,
            "mem": 512,
            "autoSleep": True,
        }.items() <= made.items()
        assert len(made["createdBy"]) == 24
        assert "envVars" not in made
        box = Tools(client)
        text = await box("execute_command", command="echo $GREETING from $(hostname)")
        assert text.startswith("hello from box\n[exit 0")
        await box("write_file", path="/root/note.txt", content="kept")
        assert await box("read_file", path="/root/note.txt") == "kept"
        opened = await box("terminal_open")
        terminal = opened.split()[1]
        shown = await box(
            "terminal_send", terminal_id=terminal, text="echo $((6*7))!", keys=["enter"], pattern="42!", wait=20
        )
        assert "pattern found" in shown
        renamed = json.loads(await box("update_sandbox", name="cart"))
        assert (renamed["id"], renamed["name"], renamed["labels"]) == (made["id"], "cart", {"team": "red"})
        listed = json.loads(text_of(await client.call_tool("list_sandboxes", {"labels": "team=red"})))
        assert [item["name"] for item in listed["sandboxes"]] == ["cart"]
        ended = await client.call_tool("delete_sandbox", {"id": "cart"})
        assert json.loads(text_of(ended)) == {"status": "deleted"}
        gone = await client.call_tool("get_sandbox", {"id": made["id"]})
        assert gone.is_error
        assert "There is no sandbox" in text_of(gone)


async def test_plain_json_rpc_makes_a_sandbox_and_runs_a_command(server: Edge) -> None:
    async with server.http("alice") as http:
        opened = await http.post("/api/mcp", json=initialize())
        session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        await http.post("/api/mcp", json=rpc("notifications/initialized", request_id=None), headers=session)

        async def call(number: int, tool: str, **arguments: object) -> str:
            message = rpc("tools/call", {"name": tool, "arguments": arguments}, number)
            result = answer_of(await http.post("/api/mcp", json=message, headers=session, timeout=PATIENCE_S))["result"]
            assert not result.get("isError"), result
            return result["content"][0]["text"]

        await call(2, "create_sandbox", name="raw", **SMALL)
        assert (await call(3, "execute_command", id="raw", command="id -u")).startswith("0\n[exit 0")
        await call(4, "delete_sandbox", id="raw")


async def test_owners_do_not_see_each_other(server: Edge) -> None:
    async with server.client("alice") as alice, server.client("bob") as bob:
        made = await create(alice, "private")
        for tool, arguments in (
            ("get_sandbox", {}),
            ("execute_command", {"command": "true"}),
            ("read_file", {"path": "/etc/passwd"}),
            ("delete_sandbox", {}),
        ):
            foreign = await bob.call_tool(tool, {"id": made["id"], **arguments})
            assert foreign.is_error
            assert text_of(foreign) == (
                f"Sandbox not found. There is no sandbox '{made['id']}': list the sandboxes, or create one."
            )
        assert json.loads(text_of(await bob.call_tool("list_sandboxes", {})))["total"] == 0
        assert (await Tools(alice, "private")("execute_command", command="true")).startswith("[exit 0")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "Not A Name"}, "name must be a DNS name such as my-box-1, got 'Not A Name'"),
        ({"name": "x" * 1_000_000}, "name must be at most 253 characters, got 1000000"),
        ({"name": "a", "cpu": 0}, "cpu must be 1 to 8 virtual CPUs, got 0"),
        ({"name": "a", "mem": 17_000_000}, "mem must be 256 to 16384 MiB, got 17000000"),
        ({"name": "a", "image": "windows"}, "image must be code or minimal, got 'windows'"),
        ({"name": "a", "labels": {"BAD KEY": "x"}}, "got 'BAD KEY'"),
        ({"name": "a", "envVars": {"1X": "x"}}, "not a digit first, got '1X'"),
        ({"name": "a", "ttl": -1}, "ttl must be 0 to 2592000 seconds (30 days), got -1"),
        ({"name": "a", "ttl": 365 * 86400}, "ttl must be 0 to 2592000 seconds (30 days), got 31536000"),
        ({"name": "a", "snapshot": "nothing"}, "There is no snapshot 'nothing'"),
        ({"name": "Not A Name", "snapshot": "nothing"}, "'nothing'"),
    ],
)
async def test_a_bad_wish_is_refused_and_leaves_nothing(
    server: Edge, arguments: dict[str, object], reason: str
) -> None:
    async with server.client("alice") as client:
        result = await client.call_tool("create_sandbox", arguments)
        assert result.is_error
        assert reason in text_of(result)
        assert len(text_of(result)) < 300
        assert json.loads(text_of(await client.call_tool("list_sandboxes", {})))["total"] == 0


async def test_code_runs_in_all_languages_and_leaves_no_file(server: Edge) -> None:
    async with server.client("alice") as client:
        await create(client, "coder", image="code", mem=1024)
        box = Tools(client, "coder")
        await box("write_file", path="/root/near.js", content="module.exports = 40;\n")
        await box("write_file", path="/root/near.ts", content="export const near: number = 40;\n")
        await box("write_file", path="/root/near.py", content="VALUE = 40\n")
        for language, code in (
            ("python", "import near\nprint(near.VALUE + 2)"),
            ("javascript", "const near = require('./near.js'); console.log(near + 2)"),
            ("javascript", "const answer = await Promise.resolve(42); console.log(answer)"),
            ("typescript", "import { near } from './near'; const answer: number = near + 2; console.log(answer)"),
            ("typescript", "const answer: number = await Promise.resolve(42)\nconsole.log(answer)"),
            ("typescript", "for (const part of [42]) {\n  const answer: number = await part\n  console.log(answer)\n}"),
            (
                "typescript",
                "import { Stats, statSync } from 'fs'; const at: Stats = statSync('/'); console.log(at ? 42 : 0)",
            ),
            (
                "typescript",
                "const { cpus } = require('os'); const one = <T>(x: T): T => x; console.log(cpus() ? one(42) : 0)",
            ),
            ("typescript", "enum Answer { Right = 42 }\nconsole.log(Answer.Right)"),
            ("bash", "cd /; echo $((40 + 2))"),
        ):
            text = await box("run_code", language=language, code=code, wait=50)
            assert text.startswith("42\n[exit 0"), (language, text)
        left = await box("execute_command", command="find / -xdev -name '.run-*' 2>/dev/null")
        assert left.startswith("[exit")


async def test_an_ambiguous_name_is_an_error_that_lists_the_ids(server: Edge) -> None:
    async with server.client("alice") as client:
        twins = [await create(client, "twin") for _ in range(2)]
        reason = await Tools(client, "twin").refused("execute_command", command="true")
        assert all(twin["id"] in reason for twin in twins)


async def test_a_killed_machine_is_told_with_what_is_lost(server: Edge, data: Path) -> None:
    async with server.client("alice") as client:
        made = await create(client, "doomed")
        box = Tools(client, "doomed")
        (process,) = orphans(data / "instances")[data / "instances" / made["id"]]
        os.kill(process.pid, signal.SIGKILL)
        with anyio.fail_after(PATIENCE_S):
            while json.loads(await box("get_sandbox"))["status"] != "killed":
                await anyio.sleep(0.05)
        reason = await box.refused("execute_command", command="true")
        assert "is lost" in reason
        assert json.loads(await box("get_sandbox"))["reason"]
        started = json.loads(await box("start_sandbox"))
        assert started["status"] == "running"
        assert "from its disk" in started["reason"]
        assert (await box("execute_command", command="true")).startswith("[exit 0")
        assert json.loads(await box("delete_sandbox")) == {"status": "deleted"}


async def test_a_full_disk_in_the_guest_is_told_as_such(server: Edge) -> None:
    async with server.client("alice") as client:
        await create(client, "full")
        box = Tools(client, "full")
        filled = await box(
            "execute_command", command="head -c 1G /dev/zero > /dev/shm/filler; df /dev/shm; ls -la /dev/shm"
        )
        assert "No space left" in filled
        reason = await box.refused("write_file", path="/dev/shm/big", content="x" * 2_000_000)
        assert "full" in reason.lower() or "no space" in reason.lower()


async def remember(box: Tools, what: str) -> None:
    """Start a program that holds something in its memory alone, and tells it whenever it is asked to."""
    await box(
        "run_background_command",
        command=f"word={what}; mkfifo /tmp/ask /tmp/told; while read x < /tmp/ask; do echo $word > /tmp/told; done",
    )
    assert await remembered(box) == what


async def remembered(box: Tools) -> str:
    asked = "until test -p /tmp/told; do sleep 0.05; done; echo x > /tmp/ask; cat /tmp/told"
    text = await box("execute_command", command=asked, timeout=20)
    return text.splitlines()[0]


async def test_a_step_that_went_wrong_is_undone_with_files_memory_and_programs(server: Edge) -> None:
    async with server.client("alice") as client:
        made = await create(client, "box")
        box = Tools(client)
        await remember(box, "alpha")
        opened = await box("terminal_open")
        terminal = opened.split()[1]
        await box(
            "terminal_send", terminal_id=terminal, text="echo bef''ore", keys=["enter"], pattern="before", wait=20
        )
        kept = json.loads(await box("snapshot_sandbox", name="good"))
        assert (kept["sandboxId"], kept["name"]) == (made["id"], "good")

        await box("write_file", path="/root/wrong", content="x")
        await box("execute_command", command="rm -rf /usr/bin/sort; pkill -f 'word=alpha' || true")
        await box("terminal_send", terminal_id=terminal, text="echo af''ter", keys=["enter"], pattern="after", wait=20)
        back = json.loads(await box("restore_snapshot", snapshot=kept["id"][:20]))
        assert (back["id"], back["snapshot"], back["status"]) == (made["id"], kept["id"], "running")
        assert back["undone"].startswith(f"All changes since good was taken, {kept['createdAt']}")

        assert await remembered(box) == "alpha"
        assert (await box("execute_command", command="ls /root; echo b a | tr ' ' '\\n' | sort")).startswith("a\nb\n")
        shown = await box("terminal_snapshot", terminal_id=terminal)
        assert "before" in shown and "after" not in shown

        refused = await client.call_tool("delete_snapshot", {"snapshot": "nothing"})
        assert "There is no snapshot 'nothing'" in text_of(refused)
        other = await create(client, "other", snapshot="good")
        assert (other["snapshot"], other["image"], other["mem"]) == (kept["id"], "minimal:latest", 512)
        assert await remembered(Tools(client, "other")) == "alpha"
        refused = await client.call_tool("delete_snapshot", {"snapshot": "good"})
        assert "sandbox other" in text_of(refused)
        await client.call_tool("delete_sandbox", {"id": "other"})
        await client.call_tool("delete_sandbox", {"id": "box"})
        listed = json.loads(text_of(await client.call_tool("list_snapshots", {"id": made["id"]})))
        assert [item["id"] for item in listed["snapshots"]] == [kept["id"]]
        gone = await client.call_tool("delete_snapshot", {"snapshot": "good"})
        assert json.loads(text_of(gone))["status"] == "deleted"


async def test_copies_go_on_from_one_moment_each_as_itself(server: Edge) -> None:
    async with server.client("alice") as client, server.client("bob") as bob:
        await create(client, "box")
        box = Tools(client)
        await remember(box, "beta")
        forks = json.loads(await box("fork_sandbox", count=2))["forks"]
        assert [set(fork) for fork in forks] == [{"id", "name"}, {"id", "name"}]
        for fork in forks:
            child = Tools(client, fork["id"])
            assert await remembered(child) == "beta"
            assert (await child("execute_command", command="hostname")).splitlines()[0] == fork["name"]
            await child("write_file", path="/root/mine", content=fork["id"])
        assert await remembered(box) == "beta"
        assert "mine" not in await box("list_files")
        assert "There is no sandbox" in text_of(await bob.call_tool("fork_sandbox", {"id": forks[0]["id"]}))
        assert "count must be 1 to 100, got 0" in await box.refused("fork_sandbox", count=0)
        assert "count must be 1 to 100, got 101" in await box.refused("fork_sandbox", count=101)


async def test_a_sandbox_that_sleeps_is_woken_by_a_call_and_one_that_was_killed_by_a_restore(
    server: Edge, data: Path
) -> None:
    async with server.client("alice") as client, server.http("alice") as http:
        await create(client, "box", ttl=3600)
        box = Tools(client)
        await remember(box, "gamma")
        await box("snapshot_sandbox", name="safe")
        assert (await http.post("/api/sandboxes/box/sleep", timeout=PATIENCE_S)).status_code == 200
        asleep = json.loads(await box("get_sandbox"))
        assert asleep["status"] == "snapshotted"
        assert 0 < asleep["leftSeconds"] <= 3600
        assert "is asleep, only a running one can be forked" in await box.refused("fork_sandbox")
        assert await remembered(box) == "gamma"
        awake = json.loads(await box("get_sandbox"))
        assert (awake["status"], awake["memory"]) == ("running", "own")

        ((process,),) = orphans(data / "instances").values()
        os.kill(process.pid, signal.SIGKILL)
        with anyio.fail_after(PATIENCE_S):
            while json.loads(await box("get_sandbox"))["status"] != "killed":
                await anyio.sleep(0.05)
        assert "ttl" in await box.refused("update_sandbox", ttl=60)
        assert json.loads(await box("restore_snapshot", snapshot="safe"))["status"] == "running"
        assert await remembered(box) == "gamma"
        await client.call_tool("delete_sandbox", {"id": "box"})
        await client.call_tool("delete_snapshot", {"snapshot": "safe"})
