"""A command's output over REST as events: what arrives, when, and how it ends."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.mcp_server.rest.command_calls import flat, stream
from tests.mcp_server.rest.conftest import BASE, events
from vmm.calls.guest import GuestCalls

pytestmark = pytest.mark.anyio


async def test_events_bring_every_line_in_its_stream_and_the_exit_code_last(http: httpx.AsyncClient) -> None:
    command = r"printf 'one\n  two\rthree\r\n\nf\xc3\xbcnf'; echo oops >&2; exit 4"
    found = await stream(http, command=command, env=None, cwd=None, timeout=30)
    assert [text for name, text in found if name == "stdout"] == ["one\n", "  two\n", "three\n", "\n", "fünf"]
    assert [text for name, text in found if name == "stderr"] == ["oops\n"]
    assert found[-1][0] == "exit"
    assert json.loads(found[-1][1]) == {"exitCode": 4}


async def test_a_prompt_is_sent_as_it_stands_to_who_may_answer_it(http: httpx.AsyncClient) -> None:
    fields = {"command": "printf 'a name? '; read name; echo hello $name", "openStdin": True}
    shown = ""
    async with http.stream("POST", f"{BASE}/exec-stream", json=fields) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        pid = json.loads((await anext(lines)).removeprefix("data:"))["pid"]
        async for line in lines:
            shown += line.removeprefix("data:") if line.startswith("data:") else ""
            if shown == "a name?":
                await flat(await http.post(f"{BASE}/commands/stdin", params={"pid": pid}, content=b"bob\n"))
                break
        rest = await events(lines)
    assert "".join(text for name, text in rest if name == "stdout") == " hello bob\n"


async def test_a_line_that_waits_in_its_middle_is_sent_but_for_its_last_letter(
    http: httpx.AsyncClient, place: Path
) -> None:
    command = f"printf 'sure? '; until test -e {place}/go; do sleep 0.02; done; echo yes"
    found: list[str] = []
    async with http.stream("POST", f"{BASE}/exec-stream", json={"command": command}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                found.append(line)
                (place / "go").touch()
    assert found[:3] == ["data:sure", "data:? yes", "data:"]


async def test_events_arrive_while_the_command_runs(http: httpx.AsyncClient, place: Path) -> None:
    command = f"echo first; until test -e {place}/go; do sleep 0.02; done; echo last"
    async with http.stream("POST", f"{BASE}/exec-stream", json={"command": command}) as answer:
        lines = answer.aiter_lines()
        async for line in lines:
            if line == "data:first":
                break
        (place / "go").touch()
        rest = [line async for line in lines]
    assert "data:last" in rest


async def test_only_the_client_that_a_command_was_started_for_holds_it_back(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    attach = GuestCalls.attach

    def noted(calls: GuestCalls, *process: Any, hold: bool = False) -> Any:
        held.append(hold)
        return attach(calls, *process, hold=hold)

    monkeypatch.setattr(GuestCalls, "attach", noted)
    await stream(http, command="true")
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "true"})))["pid"]
    await stream(http, "commands/attach", pid=pid)
    assert held == [True, False]


async def test_a_stream_of_a_command_beyond_its_time_ends_with_the_reason(http: httpx.AsyncClient) -> None:
    found = await stream(http, command="sleep 87.003", timeout=0.5)
    assert found[0] == ("stderr", "[killed: it took longer than 0.5 s]\n")
    assert json.loads(found[-1][1]) == {"exitCode": 137, "error": "killed: it took longer than 0.5 s"}


async def test_bytes_are_the_command_s_own_even_beyond_its_time(http: httpx.AsyncClient) -> None:
    (end,) = await stream(http, command="sleep 87.003", timeout=0.5, binary=True)
    assert json.loads(end[1]) == {"exitCode": 137, "error": "killed: it took longer than 0.5 s"}


async def test_binary_events_bring_the_bytes_as_they_are(http: httpx.AsyncClient, place: Path) -> None:
    content = os.urandom(300_000)
    (place / "blob").write_bytes(content)
    fields = {"command": f"cat {place}/blob; printf '\\r' >&2", "binary": True}
    async with http.stream("POST", f"{BASE}/exec-stream", json=fields) as answer:
        assert answer.headers["x-casemate-encoding"] == "base64"
        found = await events(answer.aiter_lines())
    assert b"".join(base64.b64decode(text) for name, text in found if name == "stdout") == content
    assert b"".join(base64.b64decode(text) for name, text in found if name == "stderr") == b"\r"


async def test_a_stream_tells_first_whom_to_feed_if_that_is_wished(http: httpx.AsyncClient) -> None:
    fields = {"command": "read word; echo got $word", "openStdin": True}
    async with http.stream("POST", f"{BASE}/exec-stream", json=fields) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: start"
        pid = json.loads((await anext(lines)).removeprefix("data:"))["pid"]
        await flat(await http.post(f"{BASE}/commands/stdin", params={"pid": pid}, content=b"word\n"))
        assert await anext(lines) == ""
        assert await events(lines) == [("stdout", "got word\n"), ("exit", '{"exitCode": 0}')]
    refused = await http.post(f"{BASE}/exec", json=fields)
    assert (refused.status_code, "openStdin" in refused.json()["error"]) == (400, True)
