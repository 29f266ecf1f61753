"""Watched files that are made in a burst, and what idle watches cost: `python -m bench.watch [FILES]`.

A program in the sandbox makes empty files as fast as it can, whose names say when, and then some one by one. The delay
of a file is the time from its name to its event at the client, by the host's clock.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect

from bench.server import HEAD, Server, row, running

_TOP = "/root/watched"
_SINGLE = 200
_REST_S = 3
_WATCHES = 16
_PROGRAM = """
import os, sys, time
count, directories, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for number in range(count):
    directory = f"{sys.argv[4]}/{number % directories}" if directories else sys.argv[4]
    if number < directories:
        os.mkdir(directory)
    os.close(os.open(f"{directory}/{time.time_ns()}-{number}", os.O_CREAT))
    time.sleep(pause) if pause else None
"""


@dataclass(slots=True)
class Seen:
    """What a client saw of one burst."""

    delays: list[float] = field(default_factory=list[float])
    kinds: Counter[str] = field(default_factory=Counter[str])
    took_s: float = 0


@dataclass(frozen=True, slots=True)
class Box:
    """One sandbox over REST."""

    server: Server
    http: httpx.AsyncClient
    base: str
    guest_ahead_ns: int

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = (await self.http.post(f"{self.base}/{path}", json=body)).raise_for_status()
        return answer.json()["data"]

    async def run(self, command: str) -> None:
        outcome = await self.post("exec", {"command": command, "timeout": 300})
        if outcome["exitCode"]:
            raise SystemExit(f"{command}: {outcome}")

    def socket(self, path: str) -> connect:
        url = f"ws{str(self.http.base_url).removeprefix('http').rstrip('/')}{self.base}/{path}"
        return connect(url, additional_headers={"x-api-key": self.server.key}, proxy=None)

    async def watch(self, path: str) -> connect:
        data = await self.post("files/watch", {"path": path, "recursive": True})
        return self.socket(f"files/watch/{data['sessionId']}/stream")


async def main(files: int) -> None:
    async with running() as server:
        url = server.url.removesuffix("/api/mcp")
        async with httpx.AsyncClient(base_url=url, headers={"x-api-key": server.key}, timeout=600) as http:
            made = (await http.post("/api/sandboxes", json={"name": "box"})).raise_for_status().json()["data"]
            box = Box(server, http, f"/api/sandboxes/{made['id']}", await ahead(server, made["id"]))
            rows = [
                ("one directory", await burst(box, files, directories=0)),
                ("100 new directories", await burst(box, files, directories=100)),
                ("one by one, 20 ms apart", await burst(box, _SINGLE, directories=0, pause_s=0.02)),
            ]
            each_kib = await idle(box)
            (await http.delete(box.base)).raise_for_status()
    print("| files | made | seen | other events | overflows | until the last event |\n|---|---|---|---|---|---|")
    for name, seen in rows:
        count = _SINGLE if "by one" in name else files
        others = sum(seen.kinds.values()) - seen.kinds["created"] - seen.kinds["overflow"]
        print(f"| {name} | {count} | {len(seen.delays)} | {others} | {seen.kinds['overflow']} | {seen.took_s:.1f} s |")
    print(f"\n{HEAD}")
    for name, seen in rows:
        print(row(f"delay, {name}", seen.delays))
    print(f"\nAn idle watch takes {each_kib:.0f} KiB of the server's memory ({_WATCHES} of them).")


async def ahead(server: Server, sandbox: str) -> int:
    """How many nanoseconds the guest's clock is ahead, by the quickest of some pings."""
    link = server.link(sandbox)
    found: list[tuple[int, int]] = []
    for _ in range(20):
        before = time.time_ns()
        clock = (await link.ping()).clock_ns
        after = time.time_ns()
        found.append((after - before, clock - (before + after) // 2))
    await link.aclose()
    return min(found)[1]


async def burst(box: Box, count: int, *, directories: int, pause_s: float = 0) -> Seen:
    """Watch a fresh directory while files are made in it, up to a last one."""
    seen = Seen()
    await box.run(f"rm -rf {_TOP}; mkdir {_TOP}; cat > /root/burst.py <<'END'\n{_PROGRAM}\nEND")
    async with await box.watch(_TOP) as socket, anyio.create_task_group() as tasks:
        began = time.monotonic()
        command = f"python3 /root/burst.py {count} {directories} {pause_s} {_TOP}; sleep 1; touch {_TOP}/last"
        tasks.start_soon(box.run, command)
        await follow(box, socket, seen)
        seen.took_s = time.monotonic() - began - 1
    return seen


async def follow(box: Box, socket: ClientConnection, seen: Seen) -> None:
    while True:
        event = json.loads(await socket.recv())
        now = time.time_ns()
        name = event["path"].rpartition("/")[2]
        if name == "last":
            return
        seen.kinds[event["type"]] += 1
        made, dash, _ = name.partition("-")
        if dash and event["type"] == "created":
            seen.delays.append((now + box.guest_ahead_ns - int(made)) / 10**9)


async def idle(box: Box) -> float:
    """KiB that each of as many watches as a sandbox may have takes while nothing happens."""
    await anyio.sleep(_REST_S)
    before = box.server.memory()
    async with AsyncExitStack() as stack:
        for _ in range(_WATCHES):
            await stack.enter_async_context(await box.watch(_TOP))
        await anyio.sleep(_REST_S)
        return (box.server.memory() - before) * 1024 / _WATCHES


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
