"""Background commands over REST: started, listed, followed, fed, signalled, waited for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.mcp_server.rest.command_calls import flat, gone, stream
from tests.mcp_server.rest.conftest import BASE, Rest

pytestmark = pytest.mark.anyio


async def test_waiting_for_a_command_beyond_its_time_says_why_it_ended(http: httpx.AsyncClient) -> None:
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "sleep 87.006", "timeout": 0.5})))["pid"]
    waited = await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid}))
    assert waited == {"success": True, "exitCode": 137, "error": "killed: it took longer than its timeout"}


async def test_a_background_command_is_started_listed_waited_for_and_followed(http: httpx.AsyncClient) -> None:
    started = await flat(await http.post(f"{BASE}/commands/run", json={"command": "echo hello; exit 5", "timeout": 0}))
    pid = started["pid"]
    assert isinstance(pid, int)
    assert started["command"] == "echo hello; exit 5"
    waited = await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid}))
    assert waited == {"success": True, "exitCode": 5}
    (process,) = (await flat(await http.get(f"{BASE}/commands/list")))["processes"]
    assert process["startTime"].endswith("Z")
    assert (process["pid"], process["running"], process["exitCode"]) == (pid, False, 5)
    assert await stream(http, "commands/attach", pid=pid) == [("stdout", "hello\n"), ("exit", '{"exitCode": 5}')]
    assert await stream(http, "commands/attach", pid=pid, follow=False) == [
        ("stdout", "hello\n"),
        ("exit", '{"exitCode": 5}'),
    ]


async def test_a_background_command_outlives_its_watchers_until_it_is_killed(http: httpx.AsyncClient) -> None:
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "echo on; sleep 87.004"})))["pid"]
    async with http.stream("POST", f"{BASE}/commands/attach", json={"pid": pid}) as answer:
        async for line in answer.aiter_lines():
            if line == "data:on":
                break
    assert await stream(http, "commands/attach", pid=pid, follow=False) == [("stdout", "on\n")]
    (process,) = (await flat(await http.get(f"{BASE}/commands/list")))["processes"]
    assert process["running"] is True
    assert "exitCode" not in process
    killed = await flat(await http.post(f"{BASE}/commands/kill", json={"pid": pid}))
    assert killed["message"] == "Process killed"
    assert (await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid})))["exitCode"] == 137
    await gone("87.004")


async def test_a_background_command_is_fed_until_its_input_ends(rest: Rest, place: Path) -> None:
    data = os.urandom(9_000_000)
    async with rest.http() as http, rest.http("reader") as reader:
        fields = {"command": f"sleep 1; cat > {place}/got", "openStdin": True}
        pid = (await flat(await http.post(f"{BASE}/commands/run", json=fields)))["pid"]

        async def feed(content: bytes, **query: bool) -> dict[str, Any]:
            return await flat(await http.post(f"{BASE}/commands/stdin", params={"pid": pid, **query}, content=content))

        assert await feed(data[:8_000_000]) == {"success": True, "bytes": 8_000_000, "open": True}
        refused = await reader.post(f"{BASE}/commands/stdin", params={"pid": pid}, content=b"x")
        assert refused.status_code == 403
        assert await feed(data[8_000_000:], eof=True) == {"success": True, "bytes": 1_000_000, "open": False}
        assert (await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid})))["exitCode"] == 0
        assert (place / "got").read_bytes() == data
        assert await feed(b"late") == {"success": True, "bytes": 0, "open": False}
        pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "sleep 60"})))["pid"]
        assert await feed(b"closed") == {"success": True, "bytes": 0, "open": False}
        await http.post(f"{BASE}/commands/kill", json={"pid": pid})


async def test_a_sandbox_without_background_commands_has_an_empty_list(http: httpx.AsyncClient) -> None:
    await http.post(f"{BASE}/exec", json={"command": "true"})
    await stream(http, command="true")
    assert await flat(await http.get(f"{BASE}/commands/list")) == {"success": True, "processes": []}


async def test_commands_that_are_waited_for_displace_no_background_command(http: httpx.AsyncClient) -> None:
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "exit 3"})))["pid"]
    await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid}))
    for _ in range(105):
        await http.post(f"{BASE}/exec", json={"command": "true"})
    (process,) = (await flat(await http.get(f"{BASE}/commands/list")))["processes"]
    assert (process["pid"], process["exitCode"]) == (pid, 3)


# VoidRun answers a kill that the guest refuses with 400; for the other routes it has no status of its own.


@pytest.mark.parametrize(("path", "status"), [("kill", 400), ("attach", 404), ("wait", 404)])
async def test_an_unknown_process_is_refused(http: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await http.post(f"{BASE}/commands/{path}", json={"pid": 2_000_000_000})
    assert answer.status_code == status
    assert "no process 2000000000" in answer.json()["error"]
