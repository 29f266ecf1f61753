"""A server answers VoidRun's TypeScript SDK so that the SDK can read it.

npm does not have the SDK (`test_typescript_sdk.py` runs a build of it), so its requests are written down as it sends
them, here and in `typescript_calls.py`, and its way of reading the answers in the words of this project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from bench.server import Server
from tests.clients.conftest import base_url
from tests.clients.typescript_calls import CALLS, JSON, PLACE, PREPARED, Call, body
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

STREAM = JSON | {"accept": "text/event-stream"}
TALK = "echo begun; echo; echo '  indented'; echo wrong >&2; exit 5"
PROMPT = re.compile(r"[$#>] \Z")
"""What `runCommand` takes for the end of a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """A sandbox, and what calls need of it: processes and terminals, by the names that stand for them in calls."""

    http: httpx.Client
    base: str
    sockets: str
    key: str
    known: dict[str, str]

    def sent(self, body: dict[str, Any] | bytes | None) -> bytes | None:
        if body is None or isinstance(body, bytes):
            return body
        text = json.dumps(body)
        for name, value in self.known.items():
            text = text.replace(f'"{{{name}}}"', value)
        return text.encode()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url(server), headers={"x-api-key": server.key}, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def wired(http: httpx.Client, server: Server) -> Wired:
    """A sandbox as the SDK creates it."""
    wish = {"name": "wire", "image": "code", "cpu": 1, "mem": 1024, "orgId": "", "userId": "", "sync": True}
    made = http.post("/sandboxes", json=wish)
    assert made.is_success, made.text
    base = f"/sandboxes/{made.json()['data']['id']}"

    def started(command: str) -> str:
        return str(http.post(f"{base}/commands/run", json={"command": command, "timeout": 0}).json()["pid"])

    def opened() -> str:
        return http.post(f"{base}/pty/sessions", headers=JSON).json()["data"]["sessionId"]

    assert http.post(f"{base}/exec", json={"command": PREPARED}).json()["data"]["exitCode"] == 0
    started("sleep 1000")
    known = {"ended": started(TALK), "doomed": started("sleep 2000"), "session": opened(), "second": opened()}
    http.post(f"{base}/commands/wait", json={"pid": int(known["ended"])})
    sockets = f"ws{base_url(server).removeprefix('http')}{base}"
    return Wired(http=http, base=base, sockets=sockets, key=server.key, known=known)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_gives_what_the_sdk_reads(call: Call, wired: Wired) -> None:
    method, path = call.request
    url = f"{wired.base}/{path.format_map(wired.known)}"
    answer = wired.http.request(method, url, params=call.query, content=wired.sent(call.body), headers=call.headers)
    assert answer.is_success, answer.text
    assert call.reads(answer) == call.gives


def test_a_sandbox_has_all_that_the_sdk_requires(http: httpx.Client, wired: Wired) -> None:
    created = http.post(
        "/sandboxes",
        json={
            "name": "full",
            "image": "code",
            "cpu": 1,
            "mem": 1024,
            "orgId": "",
            "userId": "",
            "sync": True,
            "region": "eu",
            "labels": {"of": "wire"},
            "publishPorts": [8080],
        },
    )
    assert created.is_success, created.text
    base = f"/sandboxes/{created.json()['data']['id']}"
    found = http.get("/sandboxes", params={"page": 1, "limit": 10, "labels": "of=wire"}).json()
    assert found["meta"] == {"page": 1, "limit": 10, "total": 1, "totalPages": 1}
    for sandbox in (created.json()["data"], http.get(base).json()["data"], *found["data"]):
        for name in ("id", "name", "cpu", "mem", "orgId", "createdAt", "createdBy", "status"):
            assert sandbox[name], name
        assert datetime.fromisoformat(sandbox["createdAt"]).tzinfo is not None
        assert not sandbox.get("nodeId")
        assert (sandbox["publishPorts"], sandbox["region"], sandbox["labels"]) == ([8080], "eu", {"of": "wire"})
    urls = http.get(f"{base}/public-urls").json()["data"]
    assert [(each["port"], type(each["url"])) for each in urls] == [(8080, str)]
    assert http.delete(base).is_success
    missing = http.get(base)
    assert (missing.status_code, body(missing)["error"]) == (404, "Sandbox not found")
    assert http.get(f"{wired.base}/public-urls").json()["data"] == []


def events(text: str) -> list[tuple[str, str]]:
    """Read events as the SDK does: it cuts at empty lines, trims the right of each line, and drops what is empty."""
    found: list[tuple[str, str]] = []
    *parts, rest = text.split("\n\n")
    assert rest == ""
    for part in parts:
        name, data = "message", list[str]()
        for line in part.split("\n"):
            if line.startswith("event:"):
                name = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                data.append(line.removeprefix("data:").rstrip())
        if joined := "\n".join(data):
            found.append((name, joined))
    return found


@pytest.mark.parametrize("path", ["exec-stream", "commands/attach"])
def test_a_stream_loses_nothing_as_the_sdk_reads_it(wired: Wired, path: str) -> None:
    wish = {"command": TALK} if path == "exec-stream" else {"pid": int(wired.known["ended"])}
    answer = wired.http.post(f"{wired.base}/{path}", json=wish, headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    heard = events(answer.text)
    assert "".join(data for name, data in heard if name == "stdout") == "begun\n\n  indented\n"
    assert "".join(data for name, data in heard if name == "stderr") == "wrong\n"
    assert [json.loads(data)["exitCode"] for name, data in heard if name == "exit"] == [5]


@pytest.mark.parametrize("path", ["pty", "pty/sessions/{session}"])
async def test_a_terminal_takes_the_key_of_its_address_and_ends_commands_with_a_prompt(wired: Wired, path: str) -> None:
    url = f"{wired.sockets}/{path.format_map(wired.known)}?apiKey={wired.key}"
    async with connect(url, proxy=None) as socket:
        with anyio.fail_after(PATIENCE_S):
            await shown_before_the_prompt(socket)
            await socket.send("echo $((40 + 2))-told\n")
            assert "42-told" in await shown_before_the_prompt(socket)


async def shown_before_the_prompt(socket: ClientConnection) -> str:
    shown = ""
    while not PROMPT.search(shown):
        shown += str(await socket.recv())
    return shown


async def test_a_watch_sends_events_to_who_has_the_key_in_its_address_and_comes_back(wired: Wired) -> None:
    wish = {"path": PLACE, "recursive": True, "ignoreHidden": True}
    started = wired.http.post(f"{wired.base}/files/watch", json=wish, headers=JSON)
    watch = body(started)["data"]["sessionId"]
    for name in ("seen", "seen again"):
        async with connect(f"{wired.sockets}/files/watch/{watch}/stream?apiKey={wired.key}", proxy=None) as socket:
            wired.http.post(f"{wired.base}/files/create", params={"path": f"{PLACE}/{name}"}, headers=JSON)
            with anyio.fail_after(PATIENCE_S):
                while (event := json.loads(await socket.recv()))["path"] != f"{PLACE}/{name}":
                    pass
        assert event["type"] == "created"
