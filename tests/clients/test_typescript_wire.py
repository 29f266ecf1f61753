"""What VoidRun's TypeScript SDK 0.4.1 sends, and what it must be able to read of the answers.

npm does not have the SDK (`test_typescript_sdk.py` runs a build of it), so its requests are written down here as it
sends them, and its way of reading the answers in the words of this project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from bench.server import Server
from tests.clients.conftest import base_url
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

JSON = {"content-type": "application/json"}
BYTES = {"content-type": "application/octet-stream"}
STREAM = JSON | {"accept": "text/event-stream"}
PLACE = "/tmp/wire"
TALK = "echo begun; echo; echo '  indented'; echo wrong >&2; exit 5"
PREPARED = f"""
    mkdir -p {PLACE}/listed && cd {PLACE} && printf 'one\\ntwo\\n' > listed/told
    cp listed/told moved && chmod 644 listed/told && tar cf packed.tar listed
"""
PROMPT = re.compile(r"[$#>] \Z")
"""What `runCommand` takes for the end of a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of the SDK for one sandbox.

    Attributes:
        name: Of its method.
        request: Method and path below the sandbox's.
        query: Its parameters.
        body: What it sends: JSON, bytes, or with `headers` alone nothing.
        headers: That it sends beside the key.
        reads: What it makes of the answer.
        gives: What that must be.
    """

    name: str
    request: tuple[str, str]
    query: dict[str, str] | None = None
    body: dict[str, Any] | bytes | None = None
    headers: dict[str, str] | None = None
    reads: Callable[[httpx.Response], object]
    gives: object


def body(answer: httpx.Response) -> Any:
    """The JSON of an answer; the generated client reads others only where it expects bytes or text."""
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    return answer.json()


def exit_code(answer: httpx.Response) -> object:
    return body(answer)["data"]["exitCode"]


def stdout(answer: httpx.Response) -> str:
    return body(answer)["data"]["stdout"]


def lines(answer: httpx.Response) -> list[str]:
    return [line.strip() for line in re.split(r"\r?\n", stdout(answer)) if line.strip()]


def running(answer: httpx.Response) -> set[str]:
    """The commands that run, of which the SDK reads these fields."""
    processes = [each for each in body(answer)["processes"] if each["running"]]
    assert all(each["pid"] > 0 and datetime.fromisoformat(each["startTime"]).tzinfo for each in processes)
    return {each["command"] for each in processes}


def file(name: str) -> dict[str, str]:
    return {"path": f"{PLACE}/{name}"}


COMMANDS = [
    Call(
        name="exec",
        request=("POST", "exec"),
        body={"command": "echo hi; exit 3", "args": ["ignored"], "timeout": 30},
        headers=JSON,
        reads=lambda answer: body(answer)["data"],
        gives={"stdout": "hi\n", "stderr": "", "exitCode": 3},
    ),
    Call(
        name="commands.run",
        request=("POST", "commands/run"),
        body={"command": "true", "timeout": 0},
        headers=JSON,
        reads=lambda answer: [body(answer)["success"], body(answer)["pid"] > 0, body(answer)["command"]],
        gives=[True, True, "true"],
    ),
    Call(
        name="commands.list",
        request=("GET", "commands/list"),
        reads=lambda answer: "sleep 1000" in running(answer),
        gives=True,
    ),
    Call(
        name="commands.kill",
        request=("POST", "commands/kill"),
        body={"pid": "{doomed}"},
        headers=JSON,
        reads=lambda answer: [body(answer)["success"], bool(body(answer)["message"])],
        gives=[True, True],
    ),
    Call(
        name="commands.wait",
        request=("POST", "commands/wait"),
        body={"pid": "{ended}"},
        headers=JSON,
        reads=lambda answer: [body(answer)["success"], body(answer)["exitCode"]],
        gives=[True, 5],
    ),
    Call(
        name="pty.createSession",
        request=("POST", "pty/sessions"),
        headers=JSON,
        reads=lambda answer: body(answer)["data"].keys() >= {"sessionId", "createdAt"},
        gives=True,
    ),
    Call(
        name="pty.list",
        request=("GET", "pty/sessions"),
        reads=lambda answer: [each["alive"] for each in body(answer)["data"]["sessions"]][:1],
        gives=[True],
    ),
    Call(
        name="pty.resize",
        request=("POST", "pty/sessions/{session}/resize"),
        body={"cols": 120, "rows": 50},
        headers=JSON,
        reads=lambda answer: body(answer)["status"],
        gives="success",
    ),
    Call(
        name="pty.deleteSession",
        request=("DELETE", "pty/sessions/{second}"),
        reads=lambda answer: body(answer)["status"],
        gives="success",
    ),
]

FILES = [
    Call(
        name="fs.listFiles",
        request=("GET", "files"),
        query={"path": f"{PLACE}/listed"},
        reads=lambda answer: [
            (each["name"], each["isDir"], each["size"], each["mode"]) for each in body(answer)["data"]["files"]
        ],
        gives=[("told", False, 8, "-rw-r--r--")],
    ),
    Call(
        name="fs.downloadFile",
        request=("GET", "files/download"),
        query=file("listed/told"),
        reads=lambda answer: answer.content,
        gives=b"one\ntwo\n",
    ),
    Call(
        name="fs.uploadFile",
        request=("POST", "files/upload"),
        query=file("sent/bytes"),
        body=b"\x00\xff",
        headers=BYTES,
        reads=lambda answer: bool(answer.text),
        gives=True,
    ),
    Call(
        name="fs.createDirectory",
        request=("POST", "files/mkdir"),
        query=file("new/deep"),
        reads=exit_code,
        gives=0,
    ),
    Call(
        name="fs.createFile",
        request=("POST", "files/create"),
        query=file("new/empty"),
        headers=JSON,
        reads=exit_code,
        gives=0,
    ),
    Call(
        name="fs.copyFile",
        request=("POST", "files/copy"),
        query={"from": f"{PLACE}/listed", "to": f"{PLACE}/copied/listed"},
        reads=exit_code,
        gives=0,
    ),
    Call(
        name="fs.moveFile",
        request=("POST", "files/move"),
        query={"from": f"{PLACE}/missing", "to": f"{PLACE}/x"},
        reads=exit_code,
        gives=1,
    ),
    Call(
        name="fs.changePermissions",
        request=("POST", "files/chmod"),
        query=file("moved") | {"mode": "600"},
        reads=exit_code,
        gives=0,
    ),
    Call(
        name="fs.statFile",
        request=("GET", "files/stat"),
        query=file("listed/told"),
        reads=lambda answer: {name: json.loads(stdout(answer).strip())[name] for name in ("path", "size", "type")},
        gives={"path": f"{PLACE}/listed/told", "size": 8, "type": "regular file"},
    ),
    Call(
        name="fs.headTail",
        request=("GET", "files/head-tail"),
        query=file("listed/told") | {"lines": "1", "head": "true"},
        reads=lines,
        gives=["one"],
    ),
    Call(
        name="fs.searchFiles",
        request=("GET", "files/search"),
        query={"path": f"{PLACE}/listed", "pattern": "*"},
        reads=lines,
        gives=[f"{PLACE}/listed/told"],
    ),
    Call(
        name="fs.folderSize",
        request=("GET", "files/du"),
        query={"path": f"{PLACE}/listed"},
        reads=lambda answer: re.fullmatch(r"[\d.]+[KMG]\s+\S+", stdout(answer).strip()) is not None,
        gives=True,
    ),
    Call(
        name="fs.compressFile",
        request=("POST", "files/compress"),
        query={"path": f"{PLACE}/listed", "format": "tar.bz2"},
        reads=exit_code,
        gives=0,
    ),
    Call(
        name="fs.extractArchive",
        request=("POST", "files/extract"),
        query={"archive": f"{PLACE}/packed.tar", "dest": "/tmp/out"},
        reads=exit_code,
        gives=0,
    ),
    Call(
        name="fs.deleteFile",
        request=("DELETE", "files"),
        query=file("not there"),
        reads=exit_code,
        gives=0,
    ),
]

LIFE = [
    Call(name=name, request=("POST", verb), reads=lambda answer: body(answer)["status"], gives="success")
    for name, verb in (("sleep", "sleep"), ("wake", "wake"), ("start", "start"))
]


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


@pytest.mark.parametrize("call", COMMANDS + FILES + LIFE, ids=lambda call: call.name)
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


async def test_a_watch_sends_events_to_who_has_the_key_in_its_address(wired: Wired) -> None:
    wish = {"path": PLACE, "recursive": True, "ignoreHidden": True}
    started = wired.http.post(f"{wired.base}/files/watch", json=wish, headers=JSON)
    watch = body(started)["data"]["sessionId"]
    async with connect(f"{wired.sockets}/files/watch/{watch}/stream?apiKey={wired.key}", proxy=None) as socket:
        wired.http.post(f"{wired.base}/files/create", params=file("seen"), headers=JSON)
        with anyio.fail_after(PATIENCE_S):
            while (event := json.loads(await socket.recv()))["path"] != f"{PLACE}/seen":
                pass
    assert event["type"] == "created"
