"""Output of commands as events: how soon the first arrives, and whether much of it does: `python -m bench.outputs`.

The delay is from the request that feeds a line to a program to the event with what the program made of it. Much output
is read at once, or by a client that stops for ten seconds in its middle, and compared with the guest's own checksum.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import AsyncGenerator

import anyio
import httpx

from bench.server import HEAD, Server, row, running

_PAUSE_S = 10.0
_LINES = 100
_MB = 1_000_000


async def main(size: int) -> None:
    async with (
        running() as server,
        httpx.AsyncClient(
            base_url=server.url.removesuffix("/mcp"), headers={"x-api-key": server.key}, timeout=600
        ) as http,
    ):
        made = await http.post("/sandboxes", json={"name": "loud", "cpu": 1, "mem": 1024})
        base = f"/sandboxes/{made.json()['data']['id']}"
        print(HEAD)
        print(row("a line fed, to its event", await _delays(http, base)))
        print("\n| output | MB/s | lost | server's memory before | at most |\n|---|---|---|---|---|")
        for name, pause_s in (("read at once", 0.0), (f"read with a pause of {_PAUSE_S:g} s", _PAUSE_S)):
            print(f"| {size} MB, {name} | {await _much(server, http, base, size, pause_s)} |")
        await http.delete(base)


async def _delays(http: httpx.AsyncClient, base: str) -> list[float]:
    took: list[float] = []
    fields = {"command": "while read line; do echo $line; done", "openStdin": True, "timeout": 600}
    async with http.stream("POST", f"{base}/exec-stream", json=fields) as answer:
        events = _events(answer)
        pid = json.loads((await anext(events))[1])["pid"]
        for number in range(_LINES):
            began = time.monotonic()
            await http.post(f"{base}/commands/stdin", params={"pid": pid}, content=f"{number}\n")
            await anext(events)
            took.append(time.monotonic() - began)
        await http.post(f"{base}/commands/kill", json={"pid": pid})
    return took


async def _much(server: Server, http: httpx.AsyncClient, base: str, size: int, pause_s: float) -> str:
    command = f"base64 -w 76 </dev/zero | tr A-Z a-z | head -c {size * _MB} | tee /dev/stderr | sha256sum >/root/sum"
    before = most = server.memory()
    digest, seen = hashlib.sha256(), 0
    began, paused = time.monotonic(), pause_s == 0
    async with http.stream(
        "POST", f"{base}/exec-stream", json={"command": command, "binary": True, "timeout": 600}
    ) as answer:
        async for name, data in _events(answer):
            if name != "stderr":
                continue
            piece = base64.b64decode(data)
            digest.update(piece)
            seen += len(piece)
            most = max(most, server.memory())
            if not paused and seen > size * _MB / 3:
                paused = True
                await anyio.sleep(pause_s)
    rate = seen / _MB / (time.monotonic() - began - pause_s)
    found = await http.post(f"{base}/exec", json={"command": "cat /root/sum"})
    whole = digest.hexdigest() in found.json()["data"]["stdout"]
    lost = "nothing" if whole else f"{size * _MB - seen} bytes"
    return f"{rate:.1f} | {lost} | {before:.0f} MiB | {most:.0f} MiB"


async def _events(answer: httpx.Response) -> AsyncGenerator[tuple[str, str]]:
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            yield name, line[5:]


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
