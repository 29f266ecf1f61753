"""The server at rest: size of `tools/list`, memory, and how long a second start takes: `python -m bench.idle`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import anyio

from bench.server import running


async def main() -> None:
    data = Path(tempfile.mkdtemp(prefix="casemate-bench-"))
    try:
        async with running(data) as server:
            first = server.ready_s
            async with server.client() as client:
                listed = (await client.list_tools()).model_dump_json(by_alias=True, exclude_none=True)
        starts: list[float] = []
        memory = 0.0
        for _ in range(3):
            async with running(data) as server:
                starts.append(server.ready_s)
                await anyio.sleep(3)
                memory = server.memory()
    finally:
        await anyio.to_thread.run_sync(shutil.rmtree, data)
    print("| what | value |\n|---|---|")
    print(f"| tools/list | {len(listed)} characters |")
    print(f"| server at rest, resident | {memory:.0f} MiB |")
    print(f"| first start with built images, to ready | {first:.1f} s |")
    print(f"| second start, to ready | {min(starts):.1f} to {max(starts):.1f} s |")


if __name__ == "__main__":
    anyio.run(main)
