"""`POST exec` of `true` over REST: `python -m bench.execs [RUNS] [SECONDS]`.

First one call at a time, in turn with the link alone to the same guest and with a session of it; then 16 callers on
eight sandboxes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import anyio

from bench.server import HEAD, Server, row, running
from bench.wire import Connection
from vmm.guest.values import Command

_SANDBOXES = 8
_CALLERS = 16
_WARM_UP = 5
_SPEC = {"image": "minimal", "cpu": 1, "mem": 256, "autoSleep": False}


async def main(runs: int, seconds: float) -> None:
    async with running(CASEMATE_RATE_LIMIT_REQUESTS="10000000", CASEMATE_WARM="false") as server:
        caller = await _Caller.of(server)
        ids = [(await caller.post("sandboxes", _SPEC | {"name": f"box-{n}"}))["data"]["id"] for n in range(_SANDBOXES)]
        rows = await _alone(server, caller, ids[0], runs)
        samples: list[float] = []
        async with anyio.create_task_group() as tasks:
            for number in range(_CALLERS):
                tasks.start_soon(_loop, server, ids[number % _SANDBOXES], seconds, samples)
        rows.append(row(f"POST exec true, {_CALLERS} callers on {_SANDBOXES} sandboxes", samples))
        memory = server.memory()
    print("\n".join([HEAD, *rows]))
    rate = len(samples) / seconds
    print(f"\n{_CALLERS} callers: {rate:.0f} calls a second, none failed; the server had {memory:.0f} MiB.")


async def _alone(server: Server, caller: _Caller, sandbox: str, runs: int) -> list[str]:
    link = server.link(sandbox)
    session = (await caller.post(f"sandboxes/{sandbox}/session-exec", {"action": "create"}))["sessionId"]
    rest: list[float] = []
    alone: list[float] = []
    sessions: list[float] = []
    for turn in range(runs + _WARM_UP):
        began = time.monotonic()
        await caller.exec(sandbox)
        middle = time.monotonic()
        await link.exec(Command(shell="true"), wait_ms=30_000)
        end = time.monotonic()
        body = {"action": "exec", "sessionId": session, "command": "true"}
        await caller.post(f"sandboxes/{sandbox}/session-exec", body)
        if turn >= _WARM_UP:  # the first ones warm the emulator's translations
            rest.append(middle - began)
            alone.append(end - middle)
            sessions.append(time.monotonic() - end)
    await link.aclose()
    return [
        row("POST exec true", rest),
        row("the same, link alone", alone),
        row("difference, pair by pair", _differences(rest, alone)),
        row("POST session-exec true", sessions),
    ]


def _differences(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(these, those, strict=True)]


async def _loop(server: Server, sandbox: str, seconds: float, samples: list[float]) -> None:
    caller = await _Caller.of(server)
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        await caller.exec(sandbox)
        samples.append(time.monotonic() - began)


class _Caller:
    """A client with one connection."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self._key = server.key
        self._host = urlsplit(server.url).netloc
        self._connection = connection

    @classmethod
    async def of(cls, server: Server) -> _Caller:
        return cls(server, await Connection.to(server.url))

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        head = (
            f"POST /api/{path} HTTP/1.1\r\nhost: {self._host}\r\nx-api-key: {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        status, answer = await self._connection.ask(head.encode() + data)
        if status >= 300:
            raise SystemExit(f"{path} answered {status}: {answer.decode()}")
        return json.loads(answer)

    async def exec(self, sandbox: str) -> None:
        answer = await self.post(f"sandboxes/{sandbox}/exec", {"command": "true"})
        if answer["data"]["exitCode"] != 0:
            raise SystemExit(f"exec answered {answer}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    anyio.run(main, int(arguments[0]) if arguments else 200, float(arguments[1]) if len(arguments) > 1 else 30.0)
