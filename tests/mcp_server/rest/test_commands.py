"""Commands over REST that are waited for, and what all ways to run one have in common."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anyio
import httpx
import pytest

from mcp_server.rest.commands import foreground_s
from tests.mcp_server.rest.command_calls import flat, gone, printed, stream, there
from tests.mcp_server.rest.conftest import BASE, Rest, data_of
from tests.vmm.guest.agents import living

pytestmark = pytest.mark.anyio


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


async def test_a_client_that_goes_away_ends_its_command(rest: Rest) -> None:
    for path in ("exec", "exec-stream"):
        async with rest.http() as http, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda http=http, path=path: http.post(f"{BASE}/{path}", json={"command": "sleep 87.002"}))
            await there("87.002")
            tasks.cancel_scope.cancel()
        await gone("87.002")


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
