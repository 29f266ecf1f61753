"""A large file up and down over REST, against the link alone: `python -m bench.uploads [MIB] [RUNS]`."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import httpx

from bench.server import Server, running
from vmm.guest.link import GuestLink

_MIB = 1024 * 1024
_PIECE = os.urandom(_MIB)
_PATH = "/root/large"


async def main(size: int, runs: int) -> None:
    took: dict[str, list[float]] = {}
    async with (
        running() as server,
        httpx.AsyncClient(
            base_url=server.url.removesuffix("/mcp"), headers={"x-api-key": server.key}, timeout=600
        ) as http,
    ):
        made = (await http.post("/sandboxes", json={"name": "store", "cpu": 1, "mem": 1024})).json()["data"]
        files, link = f"/sandboxes/{made['id']}/files", server.link(made["id"])
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "up, link": lambda: link.write_stream(_PATH, _pieces(size)),
            "up, REST": lambda: _upload(http, files, size),
            "down, link": lambda: _read(link, size),
            "down, REST": lambda: _download(http, files, size),
        }
        before = most = server.memory()
        for _ in range(runs):
            for name, step in steps.items():
                seconds, peak = await _timed(server, step)
                took.setdefault(name, []).append(seconds)
                most = max(most, peak)
        await link.aclose()
        await http.delete(f"/sandboxes/{made['id']}")
    print(f"| {size} MiB | link | REST | REST / link |\n|---|---|---|---|")
    for way in ("up", "down"):
        alone, rest = (size / statistics.median(took[f"{way}, {name}"]) for name in ("link", "REST"))
        print(f"| {way} | {alone:.1f} MiB/s | {rest:.1f} MiB/s | {rest / alone:.2f} |")
    print(f"\nThe server had {before:.1f} MiB, at most {most:.1f} MiB.")


async def _timed(server: Server, step: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds that a step takes, and the most memory that the server has meanwhile, in MiB."""
    peak = seconds = 0.0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, server.memory())
            await anyio.sleep(0.05)

    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await step()
        seconds = time.monotonic() - began
        tasks.cancel_scope.cancel()
    return seconds, peak


async def _pieces(size: int) -> AsyncGenerator[bytes]:
    for _ in range(size):
        yield _PIECE


async def _upload(http: httpx.AsyncClient, files: str, size: int) -> None:
    headers = {"content-type": "application/octet-stream", "content-length": str(size * _MIB)}
    answer = await http.post(f"{files}/upload", params={"path": _PATH}, content=_pieces(size), headers=headers)
    answer.raise_for_status()


async def _read(link: GuestLink, size: int) -> None:
    total = 0
    async with link.open_read(_PATH) as (_, chunks):
        async for chunk in chunks:
            total += len(chunk)
    assert total == size * _MIB


async def _download(http: httpx.AsyncClient, files: str, size: int) -> None:
    total = 0
    async with http.stream("GET", f"{files}/download", params={"path": _PATH}) as answer:
        async for chunk in answer.aiter_raw():
            total += len(chunk)
    assert total == size * _MIB


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 256, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
