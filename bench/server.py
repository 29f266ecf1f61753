"""What the measurements share: a real server as its own process, a client of it, and the arithmetic of samples."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import TextContent

from vmm.guest.link import GuestLink
from vmm.hypervisor.process import ProcessRef

_START_S = 1200
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that runs.

    Attributes:
        url: Of its MCP endpoint.
        key: A key for it.
        data: Its data directory.
        process: Itself.
        ready_s: Seconds from the start of the process to the first good answer of /ready.
    """

    url: str
    key: str
    data: Path
    process: ProcessRef
    ready_s: float

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """An MCP client as current clients are."""
        async with (
            create_mcp_http_client(headers={"x-api-key": self.key}) as http,
            Client(streamable_http_client(self.url, http_client=http), mode="2026-07-28") as client,
        ):
            yield client

    def link(self, sandbox_id: str) -> GuestLink:
        """A link of our own to a sandbox's guest, beside the server's."""
        record = json.loads((self.data / "instances" / sandbox_id / "machine.json").read_text())
        return GuestLink(lambda: anyio.connect_tcp("127.0.0.1", record["port"]), bytes.fromhex(record["secret"]))

    def memory(self) -> float:
        """Resident memory in MiB."""
        return self.process.memory() / _MIB


@asynccontextmanager
async def running(
    data: Path | None = None, *, log: int | None = None, arguments: Sequence[str] = (), **settings: str
) -> AsyncGenerator[Server]:
    """Serve from a data directory, a fresh one with the built images by default; sandboxes are gone afterwards.

    Args:
        data: The directory.
        log: Where its log goes; None is the same as our own.
        arguments: Further arguments of `casemate serve`.
        settings: Variables of its environment.
    """
    place = data or Path(tempfile.mkdtemp(prefix="casemate-bench-"))
    images = place / "images"
    if not images.exists():
        place.mkdir(parents=True, exist_ok=True)
        images.symlink_to(Path(os.environ.get("CASEMATE_BENCH_IMAGES", Path.home() / ".cache/casemate-test/images")))
    port = str(_free_port())
    environment = os.environ | {
        "CASEMATE_DATA": str(place),
        "CASEMATE_PORT": port,
        "CASEMATE_LOG_LEVEL": "warning",
        # No measurement makes a bridge on the host unless it is about that.
        "CASEMATE_NETWORK_WAY": os.environ.get("CASEMATE_NETWORK_WAY", "user"),
        **settings,
    }
    began = time.monotonic()
    process = await anyio.open_process(
        [casemate(), "serve", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=log
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await _ready(url, began)
        ref = ProcessRef.of(process.pid)
        assert ref is not None
        key = (place / "key").read_text().strip()
        yield Server(url=f"{url}/api/mcp", key=key, data=place, process=ref, ready_s=time.monotonic() - began)
    finally:
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):  # a test may have ended it
                process.terminate()
            await process.wait()
            if data is None:
                await anyio.run_process([casemate(), "sandbox", "rm", "--all"], env=environment, check=False)
                await anyio.to_thread.run_sync(shutil.rmtree, place)


async def call(client: Client, tool: str, **arguments: object) -> str:
    """Call a tool that must not fail, and give its text."""
    result = await client.call_tool(tool, dict(arguments))
    (block,) = result.content
    assert isinstance(block, TextContent)
    if result.is_error:
        raise SystemExit(f"{tool}: {block.text}")
    return block.text


def row(name: str, samples: Sequence[float], unit: str = "ms", scale: float = 1000) -> str:
    """A line of a table: how many samples, their median, 95th and 99th percentile."""
    ordered = sorted(sample * scale for sample in samples)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    return f"| {name} | {len(ordered)} | {cuts[49]:.1f} {unit} | {cuts[94]:.1f} {unit} | {cuts[98]:.1f} {unit} |"


HEAD = "| what | n | p50 | p95 | p99 |\n|---|---|---|---|---|"


def casemate() -> str:
    """The command of the environment that runs this."""
    return str(Path(sys.executable).with_name("casemate"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def _ready(url: str, began: float) -> None:
    async with httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(f"{url}/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() - began > _START_S:
                raise SystemExit("The server did not become ready")
            await anyio.sleep(0.02)
