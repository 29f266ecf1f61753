"""A whole server as its own process, small and quick to start, and the command line beside it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx

from bench.server import Server, casemate, running

SMALL = {"image": "minimal", "mem": 512}
"""What a sandbox costs least with."""

_QUICK = {"CASEMATE_WARM": "false", "CASEMATE_DEFAULT_IMAGE": "minimal"}
_CLI_S = 60


def cli(data: Path, *arguments: str, expect: int = 0, **variables: str) -> str:
    """Run the command line on a data directory; what it said on both outputs."""
    done = _ran(data, *arguments, expect=expect, **variables)
    return done.stdout + done.stderr


def cli_json(data: Path, *arguments: str, **variables: str) -> Any:
    """Run the command line on a data directory; the value that it printed."""
    return json.loads(_ran(data, *arguments, expect=0, **variables).stdout)


async def refused(data: Path, **variables: str) -> str:
    """Start a server that must not start: the one line that it says, with exit status 2."""
    wish = {"CASEMATE_PORT": "0", "CASEMATE_LOG_LEVEL": "error"} | _QUICK | variables
    said = await anyio.to_thread.run_sync(lambda: cli(data, "serve", expect=2, **wish))
    (line,) = said.splitlines()
    assert line.startswith("casemate: "), said
    return line


@asynccontextmanager
async def serving(data: Path, **variables: str) -> AsyncGenerator[Server]:
    """Serve from a directory; the log is added to `server.log` beside what the server keeps there."""
    with (data / "server.log").open("a") as log:
        async with running(data, log=log.fileno(), **_QUICK, **variables) as server:
            yield server


def http(server: Server, key: str = "", **headers: str) -> httpx.AsyncClient:
    """A client of its REST surface: with the local key, unless another one is given."""
    base = server.url.removesuffix("/api/mcp")
    return httpx.AsyncClient(base_url=base, headers={"x-api-key": key or server.key} | headers, timeout=30)


def _ran(data: Path, *arguments: str, expect: int, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [casemate(), *arguments],
        env=os.environ | {"CASEMATE_DATA": str(data)} | variables,
        capture_output=True,
        text=True,
        timeout=_CLI_S,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done
