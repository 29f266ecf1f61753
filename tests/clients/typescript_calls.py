"""The calls of VoidRun's TypeScript SDK 0.4.1 for one sandbox: what it sends, and what it reads of the answers.

They stand for the SDK, which npm does not have. `{ended}`, `{doomed}`, `{session}` and `{second}` stand for the ids of
processes and terminals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

JSON = {"content-type": "application/json"}
BYTES = {"content-type": "application/octet-stream"}
PLACE = "/tmp/wire"
PREPARED = f"""
    mkdir -p {PLACE}/listed && cd {PLACE} && printf 'one\\ntwo\\n' > listed/told
    cp listed/told moved && chmod 644 listed/told && tar cf packed.tar listed
"""
"""Makes the files that the calls are about."""


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
    """The JSON of an answer."""
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

CALLS = COMMANDS + FILES + LIFE
