"""VoidRun's session-exec and session-exec-stream."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.mcp_server.rest.conftest import BASE, Rest
from tests.vmm.guest.agents import living
from tests.waiting import until
from vmm.errors import ProcessMissing

pytestmark = pytest.mark.anyio

ACT = f"{BASE}/session-exec"
STREAM = f"{BASE}/session-exec-stream"
LONG = r"head -c 3000000 /dev/zero | tr '\0' x; echo end"
WHOLE = "x" * 3_000_000 + "end\n"


async def act(http: httpx.AsyncClient, action: str, **fields: object) -> dict[str, Any]:
    answer = await http.post(ACT, json={"action": action, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("success") is True
    return body


async def refused(http: httpx.AsyncClient, status: int, action: str, **fields: object) -> str:
    answer = await http.post(ACT, json={"action": action, **fields})
    assert answer.status_code == status, answer.text
    assert "success" not in answer.json()
    return answer.json()["error"]


async def streamed(http: httpx.AsyncClient, **fields: object) -> list[dict[str, Any]]:
    async with http.stream("POST", STREAM, json=fields) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in answer.aiter_lines()]


async def test_a_session_keeps_its_state_between_calls(http: httpx.AsyncClient, place: Path) -> None:
    session = (await act(http, "create"))["sessionId"]
    assert re.fullmatch(r"sess-[0-9a-f]{16}", session)
    given = {"sessionId": session}
    assert await act(http, "exec", **given, command=f"cd {place}; A=1; f() {{ echo $A-$1; }}") == {
        **given,
        "output": "",
        "exitCode": 0,
    }
    assert await act(http, "exec", **given, command="pwd; f 2; false") == {
        **given,
        "output": f"{place}\n1-2\n",
        "exitCode": 1,
    }
    assert await act(http, "exec", **given, command="echo $? $FROM_SANDBOX") == {
        **given,
        "output": "1 yes\n",
        "exitCode": 0,
    }
    assert await act(http, "close", **given) == given
    assert "no session" in await refused(http, 404, "exec", **given, command="true")


async def test_a_caller_chooses_name_shell_size_directory_and_variables(http: httpx.AsyncClient, place: Path) -> None:
    given = {"sessionId": "my.own:name-1"}
    fields = {"shell": "sh", "cols": 91, "rows": 33, "cwd": str(place), "env": {"A": "b"}}
    assert await act(http, "create", **given, **fields) == given
    shown = await act(http, "exec", **given, command="echo $0 $A; pwd; stty size")
    assert shown["output"] == f"sh b\n{place}\n33 91\n"
    assert await act(http, "resize", **given, cols=50, rows=20) == given
    assert (await act(http, "exec", **given, command="stty size"))["output"] == "20 50\n"
    assert "already" in await refused(http, 409, "create", **given)
    assert "shell must be" in await refused(http, 400, "create", shell="python3")


async def test_fields_that_are_null_count_as_left_out(http: httpx.AsyncClient) -> None:
    nothing = dict.fromkeys(("sessionId", "shell", "command", "input", "cols", "rows", "cwd", "env", "timeout"))
    session = (await act(http, "create", **nothing))["sessionId"]
    answer = await act(http, "exec", **{**nothing, "sessionId": session, "command": "echo on"})
    assert answer["output"] == "on\n"


async def test_what_is_typed_reaches_the_command_that_runs(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    results: list[dict[str, Any]] = []

    async def ask() -> None:
        results.append(await act(http, "exec", **given, command="echo sure?; read answer; echo $answer"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)

        async def typed() -> bool:
            answer = await http.post(ACT, json={"action": "input", **given, "input": "yes\n"})
            return answer.status_code == 200

        await until(typed)
    assert results == [{**given, "output": "sure?\nyes\n", "exitCode": 0}]
    assert "no command runs" in await refused(http, 400, "input", **given, input="echo lost\n")


async def test_a_second_command_is_refused_while_one_runs(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: act(http, "exec", **given, command="sleep 87.501; true"))
        await until(lambda: living("87.501"))
        assert "runs another command" in await refused(http, 409, "exec", **given, command="true")
        answer = await http.post(STREAM, json={**given, "command": "true"})
        assert answer.status_code == 409
        assert "runs another command" in answer.json()["error"]
        await act(http, "input", **given, input="\x03")
    assert (await act(http, "exec", **given, command="echo $?"))["output"] == "130\n"


async def test_a_command_beyond_its_time_is_interrupted_and_said_to_be(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    answer = await act(http, "exec", **given, command="A=kept; echo begun; sleep 87.502", timeout=0.5)
    assert answer["output"].startswith("begun\n")
    assert (answer["exitCode"], answer["timedOut"]) == (130, True)
    assert answer["error"] == "interrupted: it took longer than 0.5 s"
    assert not living("87.502")
    assert (await act(http, "exec", **given, command="echo $A"))["output"] == "kept\n"
    found = await streamed(http, **given, command="sleep 87.503", timeout=0.5)
    assert found[-1] == {"type": "exit", "exitCode": 130, "error": "interrupted: it took longer than 0.5 s"}


async def test_a_command_that_ignores_its_interrupt_takes_the_session_along(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    answer = await act(http, "exec", **given, command="trap '' INT; sleep 87.505; sleep 87.505", timeout=0.5)
    assert (answer["exitCode"], answer["timedOut"]) == (137, True)
    assert answer["error"].startswith("killed with its session: it took longer than 0.5 s")
    await refused(http, 404, "exec", **given, command="true")


async def test_the_end_of_the_shell_is_said(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    answer = await act(http, "exec", **given, command="exit 6")
    assert (answer["exitCode"], answer["error"]) == (6, "the session has ended, because its shell has")
    assert "ended with exit code 6" in await refused(http, 404, "exec", **given, command="true")


async def test_a_stream_brings_every_byte_and_the_exit_code_last(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    found = await streamed(
        http, **given, command="printf '  a\\r\\n\\n\\tü\u2028\x85\\f'; seq 20000; (exit 3)", timeout=None
    )
    assert {line["type"] for line in found} == {"stdout", "exit"}
    numbers = "".join(f"{number}\n" for number in range(1, 20001))
    assert "".join(line["data"] for line in found if line["type"] == "stdout") == f"  a\r\n\n\tü\u2028\x85\f{numbers}"
    assert found[-1] == {"type": "exit", "exitCode": 3}
    assert "is required" in (await http.post(STREAM, json={**given, "command": " "})).json()["error"]


async def test_an_output_of_megabytes_is_answered_whole(http: httpx.AsyncClient) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    answer = await act(http, "exec", **given, command=f"{LONG}; printf '\\\\\"\\342\\202'; (exit 3)")
    assert answer == {**given, "output": WHOLE + '\\"\N{REPLACEMENT CHARACTER}', "exitCode": 3}
    found = await streamed(http, **given, command=LONG)
    assert {line["type"] for line in found} == {"stdout", "exit"}
    assert "".join(line["data"] for line in found[:-1]) == WHOLE


async def test_what_is_left_out_of_an_answer_is_told_beside_the_output(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.rest.long_text.MOST", 1_000_000)
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    answer = await act(http, "exec", **given, command=f"{LONG}; exit 4")
    left, _, why = answer["error"].partition("; ")
    lost = int(left.removesuffix(" bytes of output left out"))
    assert why == "the session has ended, because its shell has"
    assert 0 < lost < 1_000_000
    said = WHOLE + "exit\n"  # as an interactive shell does
    assert (answer["output"], answer["exitCode"], answer["truncated"]) == (said[lost:], 4, True)


async def test_an_output_that_is_gone_is_told(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_arguments: object, **_offsets: object) -> None:
        raise ProcessMissing("the session's last command is 3, not 2")

    monkeypatch.setattr("vmm.calls.sessions.SessionCalls.read", gone)
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    answer = await act(http, "exec", **given, command=LONG)
    head, tail = 256 * 1024, 1024 * 1024
    assert answer["output"] == WHOLE[:head] + WHOLE[-tail:]
    assert answer["error"] == f"{len(WHOLE) - head - tail} bytes of output left out"


async def test_a_stream_arrives_while_the_command_runs(http: httpx.AsyncClient, place: Path) -> None:
    given = {"sessionId": (await act(http, "create"))["sessionId"]}
    command = f"printf first; until test -e {place}/go; do sleep 0.02; done; echo last"
    async with http.stream("POST", STREAM, json={**given, "command": command}) as answer:
        lines = answer.aiter_lines()
        shown = ""
        while shown != "first":
            shown += json.loads(await anext(lines))["data"]
        (place / "go").touch()
        rest = [json.loads(line) async for line in lines]
    assert rest[-2:] == [{"type": "stdout", "data": "last\n"}, {"type": "exit", "exitCode": 0}]


@pytest.mark.parametrize("path", ["session-exec", "session-exec-stream"])
async def test_a_client_that_goes_away_interrupts_its_command(rest: Rest, path: str) -> None:
    async with rest.http() as http:
        given = {"sessionId": (await act(http, "create"))["sessionId"]}
        await act(http, "exec", **given, command="A=kept")
        body = {"action": "exec", **given, "command": "sleep 87.504"}
        async with rest.http() as other, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: other.post(f"{BASE}/{path}", json=body))
            await until(lambda: living("87.504"))
            tasks.cancel_scope.cancel()
        await until(lambda: not living("87.504"))

        async def free() -> bool:
            answer = await http.post(ACT, json={"action": "exec", **given, "command": "echo $A $?"})
            return answer.status_code == 200 and answer.json()["output"] == "kept 130\n"

        await until(free)


async def test_sessions_are_their_owners_and_need_the_scope_to_run(rest: Rest) -> None:
    async with rest.http() as http, rest.http("bob") as bob, rest.http("reader") as reader:
        given = {"sessionId": (await act(http, "create"))["sessionId"]}
        for action, fields in (
            ("create", {}),
            ("exec", {"command": "true"}),
            ("input", {"input": "x"}),
            ("resize", {"cols": 1, "rows": 1}),
            ("close", {}),
        ):
            assert "Sandbox not found" in await refused(bob, 404, action, **given, **fields)
            assert "scope run" in await refused(reader, 403, action, **given, **fields)
        assert (await bob.post(STREAM, json={**given, "command": "true"})).status_code == 404
        assert (await act(http, "exec", **given, command="echo mine"))["output"] == "mine\n"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"action": "exec", "command": "true"}, "sessionId is required"),
        ({"action": "exec", "sessionId": "x"}, "Command is required"),
        ({"action": "exec", "sessionId": "x", "command": "x" * 100_001}, "Command exceeds maximum length"),
        ({"action": "input", "sessionId": "x"}, "input is required"),
        ({"action": "resize", "sessionId": "x", "cols": 80}, "cols and rows are required"),
        ({"action": "close"}, "sessionId is required"),
        ({"action": "start"}, "Invalid request"),
        ({}, "Invalid request"),
        ({"action": "create", "sessionId": "../x"}, "Invalid request"),
    ],
)
async def test_an_action_without_what_it_needs_is_refused(
    http: httpx.AsyncClient, fields: dict[str, Any], says: str
) -> None:
    answer = await http.post(ACT, json=fields)
    assert (answer.status_code, says in answer.json()["error"]) == (400, True), answer.text
