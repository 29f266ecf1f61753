"""What an idle WebSocket of a terminal costs the server in memory: `python -m bench.sockets [SOCKETS]`."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

import anyio
import httpx
from websockets.asyncio.client import connect

from bench.server import running

_KIB = 1024
_TERMINALS = 8
_STEP = 50


async def main(count: int) -> None:
    async with (
        running() as server,
        httpx.AsyncClient(
            base_url=server.url.removesuffix("/mcp"), headers={"x-api-key": server.key}, timeout=120
        ) as http,
    ):
        made = await http.post("/sandboxes", json={"name": "watched", "cpu": 1, "mem": 1024})
        base = f"/sandboxes/{made.json()['data']['id']}"
        opened = [(await http.post(f"{base}/pty/sessions")).json()["data"]["sessionId"] for _ in range(_TERMINALS)]
        url = f"{server.url.removesuffix('/mcp').replace('http', 'ws')}{base}/pty/sessions"
        print("| sockets | server's memory | each |\n|---|---|---|")
        async with AsyncExitStack() as sockets:
            before = server.memory()
            print(f"| 0 | {before:.1f} MiB | |")
            for number in range(1, count + 1):
                where = f"{url}/{opened[number % _TERMINALS]}"
                await sockets.enter_async_context(
                    connect(where, additional_headers={"x-api-key": server.key}, proxy=None)
                )
                if number % _STEP == 0:
                    now = server.memory()
                    print(f"| {number} | {now:.1f} MiB | {(now - before) * _KIB / number:.0f} KiB |")
        await http.delete(base)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 200)
