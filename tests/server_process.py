"""A whole server as its own process, small and quick to start, and the command line beside it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx

from bench.server import Server, casemate, running
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans

SMALL = {"image": "minimal", "mem": 512}
"""What a sandbox costs least with."""

Place = Callable[[str], Path]
"""Makes a data directory of that name."""

QUICK = {"CASEMATE_WARM": "false", "CASEMATE_DEFAULT_IMAGE": "minimal"}
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
"""Runs a shell's script where it may mount; what it mounts is gone with it."""


def cli(data: Path, *arguments: str, expect: int = 0, **variables: str) -> str:
    """Run the command line on a data directory; what it said on both outputs."""
    done = _ran(data, [casemate(), *arguments], expect=expect, **variables)
    return done.stdout + done.stderr


def cli_json(data: Path, *arguments: str, **variables: str) -> Any:
    """Run the command line on a data directory; the value that it printed."""
    return json.loads(_ran(data, [casemate(), *arguments], expect=0, **variables).stdout)


@asynccontextmanager
async def places(root: Path, source: Path) -> AsyncGenerator[Place]:
    """Makes data directories below one, with the images and templates of another; their machines end with the block."""
    made: list[Path] = []

    def make(name: str) -> Path:
        data = root / name
        data.mkdir()
        for kind in ("images", "templates"):
            (data / kind).symlink_to((source / kind).resolve())
        made.append(data)
        return data

    try:
        yield make
    finally:
        for data in made:
            for processes in orphans(data / "instances").values():
                for process in processes:
                    await process.kill()


async def refused(data: Path, *, within: str = "", **variables: str) -> str:
    """Start a server that must not start: the one line that it says, with exit status 2.

    Args:
        data: Its directory.
        within: What a shell does before in a mount namespace of the server's own; `$1` is the directory, `$2` the one
            of the images.
        variables: Of its environment.
    """
    wish = {"CASEMATE_PORT": "0", "CASEMATE_LOG_LEVEL": "error"} | QUICK | variables
    command = [casemate(), "serve"]
    if within:
        images = str((data / "images").resolve())
        command = [*NAMESPACE, f'{within}; exec "$3" serve', "sh", str(data), images, casemate()]
    done = await anyio.to_thread.run_sync(lambda: _ran(data, command, expect=2, **wish))
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("casemate: "), line
    return line


@asynccontextmanager
async def serving(data: Path, **variables: str) -> AsyncGenerator[Server]:
    """Serve from a directory; the log is added to `server.log` beside what the server keeps there."""
    with (data / "server.log").open("a") as log:
        async with running(data, log=log.fileno(), **QUICK, **variables) as server:
            yield server


def http(server: Server, key: str = "", **headers: str) -> httpx.AsyncClient:
    """A client of its REST surface: with the local key, unless another one is given."""
    base = server.url.removesuffix("/api/mcp")
    return httpx.AsyncClient(base_url=base, headers={"x-api-key": key or server.key} | headers, timeout=PATIENCE_S)


async def noted(client: httpx.AsyncClient, action: str, *, least: int = 1, **filters: str) -> list[dict[str, Any]]:
    """The audit's records of an action, newest first, once there are so many: they are written a moment later."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            answer = await client.get("/api/audit", params={"action": action, **filters})
            assert answer.status_code == 200, answer.text
            if len(records := answer.json()["records"]) >= least:
                return records
            await anyio.sleep(0.1)


def _ran(data: Path, command: list[str], *, expect: int, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=os.environ | {"CASEMATE_DATA": str(data)} | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done
