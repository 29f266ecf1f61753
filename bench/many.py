"""Twenty sandboxes at once, each running commands in a loop: `python -m bench.many [SANDBOXES] [SECONDS]`."""

from __future__ import annotations

import json
import sys
import time

import anyio

from bench.server import HEAD, Server, call, row, running


async def main(sandboxes: int, seconds: float) -> None:
    samples: list[float] = []
    async with running() as server:
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(sandboxes):
                tasks.start_soon(_loop, server, number, began, seconds, samples)
        memory = server.memory()
    print(HEAD)
    print(row(f"execute_command in {sandboxes} sandboxes at once", samples))
    print(f"\nNo error; {len(samples) / seconds:.0f} commands a second; the server had {memory:.0f} MiB.")


async def _loop(server: Server, number: int, began: float, seconds: float, samples: list[float]) -> None:
    async with server.client() as client:
        sandbox = json.loads(await call(client, "create_sandbox", name=f"box-{number}", mem=512))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            text = await call(client, "execute_command", id=sandbox["id"], command=f"echo {number}")
            samples.append(time.monotonic() - start)
            if not text.startswith(f"{number}\n"):
                raise SystemExit(f"sandbox {number} answered {text!r}")
        await call(client, "delete_sandbox", id=sandbox["id"])


if __name__ == "__main__":
    arguments = sys.argv[1:]
    anyio.run(main, int(arguments[0]) if arguments else 20, float(arguments[1]) if len(arguments) > 1 else 60.0)
