"""`execute_command true` through MCP against the link alone, in turn: `python -m bench.commands [RUNS]`."""

from __future__ import annotations

import json
import sys
import time

import anyio

from bench.server import HEAD, call, row, running
from vmm.guest.values import Command


async def main(runs: int) -> None:
    async with running() as server, server.client() as client:
        sandbox = json.loads(await call(client, "create_sandbox", name="box"))
        link = server.link(sandbox["id"])
        tool: list[float] = []
        alone: list[float] = []
        pings: list[float] = []
        for turn in range(runs + 5):
            began = time.monotonic()
            await call(client, "execute_command", id=sandbox["id"], command="true")
            middle = time.monotonic()
            await link.exec(Command(shell="true"), wait_ms=30_000)
            end = time.monotonic()
            await link.ping()
            if turn >= 5:  # the first ones warm the emulator's translations
                tool.append(middle - began)
                alone.append(end - middle)
                pings.append(time.monotonic() - end)
        await link.aclose()
    print(HEAD)
    print(row("execute_command true, MCP", tool))
    print(row("the same, link alone", alone))
    print(row("difference, pair by pair", [one - other for one, other in zip(tool, alone, strict=True)]))
    print(row("link ping", pings))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
