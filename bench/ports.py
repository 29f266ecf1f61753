"""A published port of a real sandbox against the link to its guest alone, in turn: `python -m bench.ports`.

Both ways end at the same server in the sandbox, with a connection for each request. The client of the published port
has a cookie, as browsers have.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.abc import ByteStream
from mcp import Client

from bench import guest_server
from bench.figures import p50, table, timed
from bench.server import Server, call, running

_REQUESTS = 400
_TURNS = 4
_WARM = 24
_CALLERS = (1, 8)
_KIB, _MIB = 1024, 1024 * 1024
_SOURCE = Path(guest_server.__file__).read_text()
_PLACE = "/root/server.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to the server in the sandbox.

    Attributes:
        connect: Opens a connection for the length of a block.
        headers: What a request has to say.
    """

    connect: Callable[[], AbstractAsyncContextManager[ByteStream]]
    headers: str

    async def ask(self, line: str = "GET / HTTP/1.1", *, body: int = 0) -> int:
        """Send a request with so many bytes of body, and give the size of the answer."""
        length = f"content-length: {body}\r\n" if body else ""
        async with self.connect() as stream:
            await stream.send(f"{line}\r\n{self.headers}{length}connection: close\r\n\r\n".encode())
            for _ in range(0, body, _MIB):
                await stream.send(bytes(_MIB))
            answer = await stream.receive()
            assert answer.startswith(b"HTTP/1.1 200"), answer
            size = len(answer)
            async for piece in stream:
                size += len(piece)
            return size


@dataclass(slots=True)
class Taken:
    """The seconds of requests, each and together."""

    each: list[float] = field(default_factory=list[float])
    together: float = 0

    @property
    def figures(self) -> tuple[float, float, float]:
        """Requests a second; the median and the 99th percentile in milliseconds."""
        p99 = statistics.quantiles(self.each, n=100, method="inclusive")[98]
        return len(self.each) / self.together, p50(self.each) * 1000, p99 * 1000

    def row(self, what: str, callers: int) -> tuple[str, ...]:
        rate, middle, late = self.figures
        return what, str(callers), str(len(self.each)), f"{rate:.1f}", f"{middle:.1f} ms", f"{late:.1f} ms"


async def main() -> None:
    async with running() as server, server.client() as client:
        sandbox = json.loads(await call(client, "create_sandbox", name="box"))["id"]
        link = server.link(sandbox)
        port = await _published(server, client)
        alone = Way(connect=lambda: link.connect(guest_server.PORT), headers="host: localhost\r\n")
        rows = [row for callers in _CALLERS for row in await _small(port, alone, callers)]
        rows.append(await _inside(client))
        large = [
            await _large(server, port, alone, "up", "POST / HTTP/1.1", body=guest_server.LARGE),
            await _large(server, port, alone, "down", "GET /large HTTP/1.1"),
        ]
        await link.aclose()
    print(table(("what", "at once", "n", "requests/s", "p50", "p99"), rows))
    size = f"{guest_server.LARGE // _MIB} MiB"
    print(f"\n{table((size, 'published port', 'link alone', 'ratio', 'server before', 'peak', 'after'), large)}")


async def _published(server: Server, client: Client) -> Way:
    """Start the server in the sandbox, publish its port, and open its URL as a browser does."""
    await call(client, "write_file", id="box", path=_PLACE, content=_SOURCE)
    started = await call(client, "run_background_command", id="box", command=f"python3 {_PLACE}")
    pid = int(started.partition(" pid ")[2].partition(".")[0])
    while "listens" not in await call(client, "read_process_output", id="box", pid=pid, wait=10):
        pass
    made = json.loads(await call(client, "publish_port", id="box", port=guest_server.PORT))
    signed, own = urlsplit(str(made["url"])), urlsplit(server.url)
    async with httpx.AsyncClient() as http:
        opened = await http.get(f"http://{own.netloc}/?{signed.query}", headers={"host": signed.netloc})
    cookie = opened.headers["set-cookie"].partition(";")[0]

    @asynccontextmanager
    async def connect() -> AsyncGenerator[ByteStream]:
        async with await anyio.connect_tcp("127.0.0.1", own.port or 0) as stream:
            yield stream

    return Way(connect=connect, headers=f"host: {signed.netloc}\r\ncookie: {cookie}\r\n")


async def _small(port: Way, alone: Way, callers: int) -> list[tuple[str, ...]]:
    """Small requests of so many callers at once on both ways, which take turns."""
    through, straight = Taken(), Taken()
    for turn in range(_TURNS + 1):
        for way, taken in ((port, through), (alone, straight)):
            # The first requests warm the emulator's translations.
            await _ask(way, callers, _REQUESTS // _TURNS if turn else _WARM, taken if turn else Taken())
    ratios = (f"{one / other:.2f}" for one, other in zip(through.figures, straight.figures, strict=True))
    return [
        through.row("published port", callers),
        straight.row("link alone", callers),
        ("ratio", str(callers), "", *ratios),
    ]


async def _ask(way: Way, callers: int, count: int, taken: Taken) -> None:
    async def some() -> None:
        for _ in range(count // callers):
            with timed(taken.each):
                await way.ask()

    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(some)
    taken.together += time.monotonic() - began


async def _inside(client: Client) -> tuple[str, ...]:
    """The same requests by a program in the sandbox."""
    said = await call(client, "execute_command", id="box", command=f"python3 {_PLACE} {_REQUESTS // _TURNS}")
    each: list[float] = json.loads(said.splitlines()[0])
    return Taken(each, sum(each)).row("inside the guest alone", 1)


async def _large(server: Server, port: Way, alone: Way, what: str, line: str, *, body: int = 0) -> tuple[str, ...]:
    """A large body on both ways, and the server's memory meanwhile."""
    before = server.memory()
    _forget_peak(server.process.pid)
    through = await _rate(port, line, body)
    memory = before, _peak(server.process.pid), server.memory()
    straight = await _rate(alone, line, body)
    rates = f"{through:.1f} MiB/s", f"{straight:.1f} MiB/s", f"{through / straight:.2f}"
    return what, *rates, *(f"{value:.1f} MiB" for value in memory)


async def _rate(way: Way, line: str, body: int) -> float:
    began = time.monotonic()
    size = body + await way.ask(line, body=body)
    assert size > guest_server.LARGE
    return guest_server.LARGE / _MIB / (time.monotonic() - began)


def _forget_peak(pid: int) -> None:
    """Let a process's peak of resident memory begin anew. Source: proc(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak(pid: int) -> float:
    """The most resident memory that a process had since then, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / _KIB


if __name__ == "__main__":
    anyio.run(main)
