"""Files in and out: 1 MiB through MCP, 100 MiB through the link's streams, 5,000 small files with `casemate cp`.

`python -m bench.transfer`
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio

from bench.server import Server, call, running

_MIB = 1024 * 1024
_LARGE = 100
_RUNS = 5
_FILES = 5000
_FILE = 1000


async def main() -> None:
    async with running() as server, server.client() as client:
        sandbox = json.loads(await call(client, "create_sandbox", name="box"))
        text = os.urandom(_MIB // 2).hex()
        before = server.memory()
        writes: list[float] = []
        reads: list[float] = []
        for _ in range(_RUNS):
            began = time.monotonic()
            await call(client, "write_file", id=sandbox["id"], path="/root/one", content=text)
            middle = time.monotonic()
            got = 0
            while got < _MIB:
                part = await call(
                    client,
                    "read_file",
                    id=sandbox["id"],
                    path="/root/one",
                    offset=got,
                    length=79_000,
                    max_output=80_000,
                )
                got += 79_000
                assert part
            writes.append(1 / (middle - began))
            reads.append(1 / (time.monotonic() - middle))
        grown = server.memory() - before
        link = server.link(sandbox["id"])
        piece = os.urandom(_MIB)

        async def pieces() -> AsyncGenerator[bytes]:
            for _ in range(_LARGE):
                yield piece

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        await link.write_stream("/root/large", pieces())
        middle = time.monotonic()
        total = 0
        async with link.open_read("/root/large") as (_, chunks):
            async for chunk in chunks:
                total += len(chunk)
        end = time.monotonic()
        assert total == _LARGE * _MIB
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
        await link.aclose()
        small_in, small_out = await _tree(server)
    print("| what | write | read | memory |\n|---|---|---|---|")
    small = f"{max(writes):.1f} MiB/s | {max(reads):.1f} MiB/s | server +{grown:.1f} MiB"
    print(f"| 1 MiB through MCP (read in pages of 79 kB) | {small} |")
    large = (
        f"{_LARGE / (middle - began):.0f} MiB/s | {_LARGE / (end - middle):.0f} MiB/s | host's end +{growth:.1f} MiB"
    )
    print(f"| {_LARGE} MiB through the link's streams | {large} |")
    print(f"| {_FILES} files of {_FILE} bytes with `casemate cp` | {small_in:.1f} s | {small_out:.1f} s | |")


def _grow(top: Path) -> None:
    for number in range(_FILES):
        path = top / str(number % 50) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(_FILE))


async def _tree(server: Server) -> tuple[float, float]:
    """Seconds that a directory of many small files takes into a sandbox and out of it."""
    with tempfile.TemporaryDirectory(prefix="casemate-bench-") as place:
        _grow(Path(place, "tree"))
        environment = {**os.environ, "CASEMATE_URL": server.url, "CASEMATE_API_KEY": server.key}
        took: list[float] = []
        for source, target in (("tree", "box:/root/tree"), ("box:/root/tree", "back")):
            began = time.monotonic()
            command = [str(Path(sys.executable).with_name("casemate")), "cp", source, target]
            await anyio.run_process(command, cwd=place, env=environment, stderr=None)
            took.append(time.monotonic() - began)
        assert sum(len(names) for _, _, names in os.walk(Path(place, "back"))) == _FILES
    return took[0], took[1]


if __name__ == "__main__":
    anyio.run(main)
