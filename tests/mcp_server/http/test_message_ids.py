"""Requests of one session under any ids: each gets the answer to itself, and nobody is cancelled for another."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.mcp_server.edge import Edge, answer_of, initialize, rpc
from tests.vmm.guest.agents import living

pytestmark = pytest.mark.anyio

IDS = [1, 0, -7, 2**70, "1", "", "a", "_GET_stream", 'say "Grüße" \\ \n', "x" * 5000]
CANCELLED = -32800
MODERN = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "execute_command"}


class Calls:
    """Commands in alice's sandbox over one raw session; those that wait go on once they are let."""

    def __init__(self, http: httpx.AsyncClient, files: Path) -> None:
        self.http = http
        self.files = files

    async def send(self, message: object) -> httpx.Response:
        return await self.http.post("/api/mcp", json=message)

    async def echo(self, word: str, request_id: int | str) -> str:
        """What a call answers that echoes a word; its id must be the one that was sent."""
        return await self.told(command(f"echo {word}", request_id))

    async def told(self, message: dict[str, Any]) -> str:
        answer = answer_of(await self.send(message))
        assert answer["id"] == message["id"]
        assert type(answer["id"]) is type(message["id"])
        return answer["result"]["content"][0]["text"].split("\n")[0]

    async def cancel(self, request_id: object) -> None:
        params = {"requestId": request_id, "reason": "not needed"}
        assert (await self.send(rpc("notifications/cancelled", params, None))).status_code == 202

    def waiting(self, word: str, request_id: int | str) -> dict[str, Any]:
        """A call that says when it runs, and echoes its word once it may."""
        begun, may = self.files / f"{word}.begun", self.files / f"{word}.may"
        return command(f"touch {begun}; until [ -e {may} ]; do sleep 0.02; done; echo {word}", request_id)

    async def begun(self, word: str) -> None:
        with anyio.fail_after(30):
            while not (self.files / f"{word}.begun").exists():
                await anyio.sleep(0.01)

    def let(self, word: str) -> None:
        (self.files / f"{word}.may").touch()


async def next_event(lines: AsyncIterator[str]) -> dict[str, Any]:
    """The next message of a stream."""
    with anyio.fail_after(40):
        async for line in lines:
            if line.startswith("data:"):
                return json.loads(line.removeprefix("data:"))
    raise AssertionError("the stream has ended")


def modern(message: dict[str, Any]) -> dict[str, Any]:
    """A request in the protocol without sessions."""
    meta: dict[str, object] = {
        "io.modelcontextprotocol/protocolVersion": MODERN["mcp-protocol-version"],
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return message | {"params": message["params"] | {"_meta": meta}}


def command(line: str, request_id: int | str) -> dict[str, Any]:
    arguments = {"id": "box", "command": line, "wait": 60}
    return rpc("tools/call", {"name": "execute_command", "arguments": arguments}) | {"id": request_id}


@asynccontextmanager
async def session(http: httpx.AsyncClient, files: Path) -> AsyncGenerator[Calls]:
    opened = await http.post("/api/mcp", json=initialize())
    http.headers["mcp-session-id"] = opened.headers["mcp-session-id"]
    http.timeout = 60
    yield Calls(http, files)


@pytest.fixture
async def calls(host: Edge, tmp_path: Path) -> AsyncGenerator[Calls]:
    async with host.http("alice") as http, session(http, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("request_id", IDS)
async def test_two_calls_under_one_id_get_each_its_own_answer(calls: Calls, request_id: int | str) -> None:
    answers: list[str] = []

    async def wait() -> None:
        answers.append(await calls.told(calls.waiting("A", request_id)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await calls.begun("A")
        assert await calls.echo("B", request_id) == "B"
        calls.let("A")
    assert answers == ["A"]


async def test_progress_comes_to_the_call_that_asked_for_it_under_the_name_that_it_gave(calls: Calls) -> None:
    message = calls.waiting("A", 1)
    message["params"]["_meta"] = {"progressToken": 7}
    async with calls.http.stream("POST", "/api/mcp", json=message) as stream:
        lines = stream.aiter_lines()
        told = await next_event(lines)
        assert (told["method"], told["params"]["progressToken"]) == ("notifications/progress", 7)
        assert "id" not in told
        assert await calls.echo("B", 1) == "B"
        calls.let("A")
        while "id" not in (answer := await next_event(lines)):
            pass
    assert answer["id"] == 1
    assert answer["result"]["content"][0]["text"].startswith("A\n")


async def test_a_number_and_the_same_number_as_text_are_two_ids(calls: Calls) -> None:
    answers: dict[str, str] = {}

    async def wait(word: str, request_id: int | str) -> None:
        answers[word] = await calls.told(calls.waiting(word, request_id))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "A", 1)
        tasks.start_soon(wait, "B", "1")
        for word in "AB":
            await calls.begun(word)
        for word in "BA":
            calls.let(word)
    assert answers == {"A": "A", "B": "B"}


async def test_many_calls_under_one_id_get_each_its_own_answer(calls: Calls) -> None:
    async def check(word: str) -> None:
        assert await calls.echo(word, 1) == word

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(check, f"word-{number}")


@pytest.mark.parametrize("asked", [1, "1"])
async def test_the_id_of_a_cancelled_call_may_be_used_at_once(calls: Calls, asked: object) -> None:
    ended: list[dict[str, Any]] = []

    async def wait() -> None:
        ended.append(answer_of(await calls.send(calls.waiting("A", 1))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await calls.begun("A")
        await calls.cancel(asked)
        assert await calls.echo("B", 1) == "B"
    assert (ended[0]["id"], ended[0]["error"]["code"]) == (1, CANCELLED)


async def test_a_cancellation_that_might_mean_several_calls_ends_none_of_them(calls: Calls) -> None:
    answers: set[str] = set()

    async def wait(word: str) -> None:
        answers.add(await calls.told(calls.waiting(word, 1)))

    async with anyio.create_task_group() as tasks:
        for word in "AB":
            tasks.start_soon(wait, word)
            await calls.begun(word)
        await calls.cancel(1)
        for word in "AB":
            calls.let(word)
    assert answers == {"A", "B"}


@pytest.mark.parametrize("asked", [2, "2", None, True, {}, "A"])
async def test_a_cancellation_of_what_there_is_not_is_taken_and_changes_nothing(calls: Calls, asked: object) -> None:
    answers: list[str] = []

    async def wait() -> None:
        answers.append(await calls.told(calls.waiting("A", 1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await calls.begun("A")
        await calls.cancel(asked)
        assert await calls.echo("B", 5) == "B"
        calls.let("A")
    assert answers == ["A"]


async def test_a_client_that_hangs_up_and_counts_anew_gets_nothing_of_before(calls: Calls) -> None:
    async with calls.http.stream("POST", "/api/mcp", json=calls.waiting("A", 1)) as stream:
        assert stream.status_code == 200
        await calls.begun("A")
    answers: list[str] = []

    async def wait() -> None:
        answers.append(await calls.told(calls.waiting("B", 1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await calls.begun("B")
        calls.let("A")
        assert await calls.echo("C", 1) == "C"
        calls.let("B")
    assert answers == ["B"]


async def test_a_call_whose_client_hung_up_may_be_cancelled_still(calls: Calls) -> None:
    message = calls.waiting("A", 1)
    async with calls.http.stream("POST", "/api/mcp", json=message):
        await calls.begun("A")
    marker = message["params"]["arguments"]["command"]
    assert living(marker)
    await calls.cancel(1)
    with anyio.fail_after(30):
        while living(marker):
            await anyio.sleep(0.02)


async def test_without_sessions_two_requests_under_one_id_get_each_its_own_answer(host: Edge, tmp_path: Path) -> None:
    answers: list[str] = []
    async with host.http("alice", **MODERN) as http, anyio.create_task_group() as tasks:
        calls = Calls(http, tmp_path)

        async def wait() -> None:
            answers.append(await calls.told(modern(calls.waiting("A", 1))))

        tasks.start_soon(wait)
        await calls.begun("A")
        await calls.cancel(1)
        assert await calls.told(modern(command("echo B", 1))) == "B"
        calls.let("A")
    assert answers == ["A"]


async def test_two_sessions_of_one_owner_do_not_meet(host: Edge, tmp_path: Path) -> None:
    answers: list[str] = []
    async with (
        host.http("alice") as one,
        host.http("alice") as other,
        session(one, tmp_path) as first,
        session(other, tmp_path) as second,
        anyio.create_task_group() as tasks,
    ):

        async def wait() -> None:
            answers.append(await first.told(first.waiting("A", 1)))

        tasks.start_soon(wait)
        await first.begun("A")
        await second.cancel(1)
        assert await second.echo("B", 1) == "B"
        first.let("A")
    assert answers == ["A"]


async def test_a_standing_stream_stays_whatever_id_a_call_has(calls: Calls) -> None:
    async with calls.http.stream("GET", "/api/mcp") as stream:
        assert stream.status_code == 200
        assert await calls.echo("A", "_GET_stream") == "A"
        # Still taken: there is one for each session.
        assert (await calls.http.get("/api/mcp")).status_code == 409


async def test_a_client_that_wants_to_resume_gets_a_stream_of_what_comes(calls: Calls) -> None:
    async with calls.http.stream("GET", "/api/mcp", headers={"last-event-id": "7"}) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([rpc("ping", {}, 1), rpc("ping", {}, 2)], -32602),
        ([], -32602),
        ("ping", -32602),
        ({"jsonrpc": "2.0", "id": 1}, -32602),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, -32602),
    ],
)
async def test_what_is_no_message_is_refused_without_an_id(calls: Calls, body: object, code: int) -> None:
    refused = await calls.send(body)
    assert (refused.status_code, refused.json()["id"], refused.json()["error"]["code"]) == (400, None, code)


async def test_a_message_of_the_largest_size_is_answered(calls: Calls) -> None:
    bare = len(json.dumps(rpc("ping", {"pad": ""}, 1)))
    body = json.dumps(rpc("ping", {"pad": "x" * (16 * 1024 * 1024 - bare)}, 1))
    answer = await calls.http.post("/api/mcp", content=body, headers={"content-type": "application/json"})
    assert answer_of(answer) == {"jsonrpc": "2.0", "id": 1, "result": {}}


async def test_an_id_may_stand_anywhere_and_space_behind_it(calls: Calls) -> None:
    body = '{"id": 1, "method":"ping", "params": {"id": 3}, "jsonrpc":"2.0", "\\u0069d": "last"} \r\n\t '
    answer = await calls.http.post("/api/mcp", content=body, headers={"content-type": "application/json"})
    assert answer_of(answer)["id"] == "last"
