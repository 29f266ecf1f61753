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
from vmm.hypervisor.process import strays

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(180)]

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
            "image": "minimal",
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
            result = answer_of(await http.post("/api/mcp", json=message, headers=session, timeout=120))["result"]
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
            assert text_of(foreign) == f"There is no sandbox '{made['id']}'. List the sandboxes, or create one."
        assert json.loads(text_of(await bob.call_tool("list_sandboxes", {})))["total"] == 0
        assert (await Tools(alice, "private")("execute_command", command="true")).startswith("[exit 0")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "Not A Name"}, "name: 'Not A Name' is not a valid name"),
        ({"name": "x" * 1_000_000}, "name: 1000000 characters are too many"),
        ({"name": "a", "cpu": 0}, "cpu: 0 is out of range. Use 1 to 8 virtual CPUs"),
        ({"name": "a", "mem": 17_000_000}, "mem: 17000000 is out of range. Use 256 to 16384 MiB"),
        ({"name": "a", "image": "windows"}, "there is no image 'windows'"),
        ({"name": "a", "labels": {"BAD KEY": "x"}}, "labels: 'BAD KEY' is not a valid key"),
        ({"name": "a", "envVars": {"1X": "x"}}, "'1X' is not a valid variable name"),
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
        await box("write_file", path="/root/near.py", content="VALUE = 40\n")
        for language, code in (
            ("python", "import near\nprint(near.VALUE + 2)"),
            ("javascript", "const near = require('./near.js'); console.log(near + 2)"),
            ("typescript", "const answer: number = 42; console.log(answer)"),
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
        (process,) = strays(data / "instances")[data / "instances" / made["id"]]
        os.kill(process.pid, signal.SIGKILL)
        with anyio.fail_after(20):
            while json.loads(await box("get_sandbox"))["status"] != "killed":
                await anyio.sleep(0.05)
        reason = await box.refused("execute_command", command="true")
        assert "is lost" in reason
        assert json.loads(await box("get_sandbox"))["reason"]
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
