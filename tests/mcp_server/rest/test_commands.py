"""Commands over REST: run and wait, events, background."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mcp_server.rest.commands import foreground_s
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, events
from tests.vmm.guest.agents import living
from tests.waiting import PATIENCE_S
from vmm.calls.guest import GuestCalls
from vmm.errors import ProcessMissing

pytestmark = pytest.mark.anyio


async def stream(http: httpx.AsyncClient, path: str = "exec-stream", **body: object) -> list[tuple[str, str]]:
    async with http.stream("POST", f"{BASE}/{path}", json=body) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        return await events(answer.aiter_lines())


async def flat(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    return body


async def printed(http: httpx.AsyncClient, path: str, **fields: Any) -> str:
    """What a command prints, on one of the three ways to run it."""
    if path == "exec":
        return data_of(await http.post(f"{BASE}/exec", json=fields))["stdout"]
    if path == "exec-stream":
        found = await stream(http, **fields)
    else:
        pid = (await flat(await http.post(f"{BASE}/commands/run", json=fields)))["pid"]
        found = await stream(http, "commands/attach", pid=pid)
    return "".join(text for name, text in found if name == "stdout")


async def gone(marker: str) -> None:
    """Wait until no process has the marker among its arguments."""
    with anyio.fail_after(PATIENCE_S):
        while living(marker):
            await anyio.sleep(0.02)


async def there(marker: str) -> None:
    """Wait until a process has the marker among its arguments."""
    with anyio.fail_after(PATIENCE_S):
        while not living(marker):
            await anyio.sleep(0.02)


async def test_a_command_is_answered_with_its_output_and_exit_code(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/exec", json={"command": " echo out; echo err >&2; exit 3 "})
    assert answer.json() == {
        "status": "success",
        "message": "ok",
        "data": {"stdout": "out\n", "stderr": "err\n", "exitCode": 3},
    }


async def test_a_command_runs_in_the_directory_and_with_the_variables_that_are_given(
    http: httpx.AsyncClient, place: Path
) -> None:
    fields = {"command": "pwd; echo $A $FROM_SANDBOX", "cwd": str(place), "env": {"A": "b c"}, "timeout": 20}
    assert data_of(await http.post(f"{BASE}/exec", json=fields))["stdout"] == f"{place}\nb c yes\n"


async def test_a_sandbox_is_found_by_its_name_too(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/sandboxes/box/exec", json={"command": "true", "env": None, "cwd": None})
    assert data_of(answer)["exitCode"] == 0


@pytest.mark.parametrize("path", ["exec", "exec-stream", "commands/run"])
async def test_arguments_reach_a_program_without_a_shell(http: httpx.AsyncClient, path: str) -> None:
    command = {"command": " printf ", "args": ["%s|", "$HOME", "; ls", "a b"]}
    assert await printed(http, path, **command) == "$HOME|; ls|a b|"


@pytest.mark.parametrize("path", ["exec", "exec-stream", "commands/run"])
async def test_a_command_line_runs_without_its_arguments_as_in_voidrun(http: httpx.AsyncClient, path: str) -> None:
    assert (await printed(http, path, command="echo $((6*7))\tor", args=["a"])).strip() == "42 or"


@pytest.mark.parametrize("stdin", ["a\nb", "", "ünï\0\r\n", "x" * (8 * 1024 * 1024)])
async def test_a_command_reads_the_input_that_comes_with_it(http: httpx.AsyncClient, stdin: str) -> None:
    fields = {"command": "sha256sum", "stdin": stdin}
    wanted = f"{hashlib.sha256(stdin.encode()).hexdigest()}  -\n"
    assert data_of(await http.post(f"{BASE}/exec", json=fields))["stdout"] == wanted
    assert [text for name, text in await stream(http, **fields) if name == "stdout"] == [wanted]
    pid = (await flat(await http.post(f"{BASE}/commands/run", json=fields)))["pid"]
    found = await stream(http, "commands/attach", pid=pid)
    assert [text for name, text in found if name == "stdout"] == [wanted]


async def test_a_program_with_arguments_reads_its_input_too(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/exec", json={"command": "tr", "args": ["a-z", "A-Z"], "stdin": "loud"})
    assert data_of(answer)["stdout"] == "LOUD"


async def test_a_command_that_reads_no_input_ends_all_the_same(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/exec", json={"command": "exec <&-; echo done", "stdin": "x" * 1_000_000})
    assert data_of(answer) == {"stdout": "done\n", "stderr": "", "exitCode": 0}


@pytest.mark.parametrize("timeout", [0.0004, 5e-324])
async def test_the_shortest_time_limit_is_not_none_at_all(http: httpx.AsyncClient, timeout: float) -> None:
    fields = {"command": "sleep 87.003", "timeout": timeout}
    assert data_of(await http.post(f"{BASE}/exec", json=fields))["timedOut"] is True
    pid = (await flat(await http.post(f"{BASE}/commands/run", json=fields)))["pid"]
    assert (await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid})))["exitCode"] == 137


async def test_a_command_beyond_its_time_is_killed_and_said_to_be(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/exec", json={"command": "echo begun; printf no >&2; sleep 87.001", "timeout": 2})
    assert data_of(answer) == {
        "stdout": "begun\n",
        "stderr": "no\n[killed: it took longer than 2 s]\n",
        "exitCode": 137,
        "timedOut": True,
    }
    assert not living("87.001")


async def test_waiting_for_a_command_beyond_its_time_says_why_it_ended(http: httpx.AsyncClient) -> None:
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "sleep 87.006", "timeout": 0.5})))["pid"]
    waited = await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid}))
    assert waited == {"success": True, "exitCode": 137, "error": "killed: it took longer than its timeout"}


LONG = r"head -c 3000000 /dev/zero | tr '\0' x; echo end"
WHOLE = "x" * 3_000_000 + "end\n"


async def test_an_output_of_megabytes_is_answered_whole(http: httpx.AsyncClient) -> None:
    command = f"{LONG}; head -c 2000000 /dev/zero | tr '\\0' '\\\\\\351' >&2; exit 3"
    answer = await http.post(f"{BASE}/exec", json={"command": command})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"status", "message", "data"}
    data = data_of(answer)
    assert data == {"stdout": WHOLE, "stderr": "\\" * 2_000_000, "exitCode": 3}


async def test_an_output_that_is_cut_off_in_a_character_stays_readable(http: httpx.AsyncClient) -> None:
    command = 'python3 -c \'import sys; sys.stdout.buffer.write(b"\\xe2\\x82\\xac" * 1000000 + b"\\xe2\\x82")\''
    data = data_of(await http.post(f"{BASE}/exec", json={"command": command}))
    assert data["stdout"] == "€" * 1_000_000 + "\N{REPLACEMENT CHARACTER}"


async def test_what_the_sandbox_cannot_keep_is_told_on_stderr(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.rest.long_output.MOST", 1_000_000)
    data = data_of(await http.post(f"{BASE}/exec", json={"command": f"{LONG}; echo oops >&2"}))
    lost = int(data["stderr"].removeprefix("oops\n[").partition(" bytes of stdout left out]\n")[0])
    assert 0 < lost < 1_000_000
    assert data["truncated"] is True
    assert data["stdout"] == WHOLE[lost:]


async def test_an_output_that_is_gone_is_told_on_stderr(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_arguments: object, **_offsets: object) -> None:
        raise ProcessMissing("there is no process 7")

    monkeypatch.setattr("vmm.calls.guest.GuestCalls.read_output", gone)
    data = data_of(await http.post(f"{BASE}/exec", json={"command": LONG, "timeout": 60}))
    head, tail = 256 * 1024, 1024 * 1024
    assert data["stdout"] == WHOLE[:head] + WHOLE[-tail:]
    assert data["stderr"] == f"[{len(WHOLE) - head - tail} bytes of stdout left out]\n"
    assert data["truncated"] is True


async def test_who_comes_late_or_reads_slowly_gets_all_of_it(http: httpx.AsyncClient) -> None:
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": LONG})))["pid"]
    await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid}))
    for follow in (True, False):
        found = await stream(http, "commands/attach", pid=pid, follow=follow)
        assert "".join(text for name, text in found if name == "stdout") == WHOLE
        assert found[-1] == ("exit", '{"exitCode": 0}')


async def test_a_client_that_goes_away_ends_its_command(rest: Rest) -> None:
    for path in ("exec", "exec-stream"):
        async with rest.http() as http, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda http=http, path=path: http.post(f"{BASE}/{path}", json={"command": "sleep 87.002"}))
            await there("87.002")
            tasks.cancel_scope.cancel()
        await gone("87.002")


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


BAD_COMMANDS: list[tuple[object, str]] = [
    ({}, "Command is required"),
    ({"command": " \n"}, "Command is required"),
    ({"command": None}, "Command is required"),
    ({"command": "x" * 100_001}, "Command exceeds maximum length"),
    ({"command": 5}, "Invalid request"),
    ({"command": "true", "timeout": "5"}, "Invalid request"),
    ({"command": "true", "env": [1]}, "Invalid request"),
    ([], "Invalid request"),
]
BAD_PIDS: list[tuple[object, str]] = [
    *(({"pid": pid}, "Invalid PID") for pid in (None, 0, -1, "1", 2**31)),
    ({}, "Invalid PID"),
    ([], "Invalid request"),
]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        *((path, *bad) for path in ("exec", "exec-stream", "commands/run") for bad in BAD_COMMANDS),
        *((path, *bad) for path in ("commands/kill", "commands/attach", "commands/wait") for bad in BAD_PIDS),
    ],
)
async def test_bad_requests_are_answered_in_voidruns_words(
    http: httpx.AsyncClient, path: str, body: object, says: str
) -> None:
    answer = await http.post(f"{BASE}/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(says)


@pytest.mark.parametrize("path", ["exec", "exec-stream", "commands/run"])
async def test_every_way_takes_the_same_commands(http: httpx.AsyncClient, path: str) -> None:
    """VoidRun's exec-stream refuses more than 4096 characters or 64 words, and quotes that are not closed."""
    words = "word " * 19_000
    assert (await printed(http, path, command=f"echo {words} | wc -w")).strip() == "19000"
    assert (await printed(http, path, command="cat <<'END'\nit's\nEND")).strip() == "it's"


async def test_fields_that_are_null_count_as_left_out(http: httpx.AsyncClient) -> None:
    nothing = dict.fromkeys(("args", "timeout", "env", "cwd", "stdin", "binary", "openStdin"))
    for path in ("exec", "exec-stream", "commands/run"):
        assert (await printed(http, path, command="echo on", **nothing)).strip() == "on", path
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": "sleep 60"})))["pid"]
    await flat(await http.post(f"{BASE}/commands/kill", json={"pid": pid, "signal": None}))
    await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid, "signal": None}))


def test_a_time_limit_of_none_is_thirty_seconds() -> None:
    assert [foreground_s(limit) for limit in (0, -1, -0.5, 0.1, 301)] == [30, 30, 30, 0.1, 301]
