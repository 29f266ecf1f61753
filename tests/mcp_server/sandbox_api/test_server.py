"""The server as its users start it: by sandbox-api's environment file, with its README's calls and the Inspector."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from bench.server import Server, casemate, running
from inspector.smoke import TOOL_ERROR, Inspector
from tests.mcp_server.edge import ERAS, Era, text_of
from tests.server_process import http, places, serving
from tests.test_inspector import node as node  # noqa: PLC0414 -- a fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

KEY = "dev-key-" + "0" * 24
ENVIRONMENT = f"""\
# Redis
REDIS_HOST=redis
REDIS_PORT=6379
JWT_SECRET=change-me-in-production
API_KEYS={KEY}
RATE_LIMIT_REQUESTS=100
SESSION_TTL_SECONDS=600
CONTAINER_MEM_LIMIT=512m
"""
README_CURL = """\
curl -X POST http://localhost:8000/execute \
  -H "X-API-Key: dev-key" \
  -H "Content-Type: application/json" \
  -d '{"command": "ls -la", "session_id": "my-session-1", "timeout": 30}'
"""
README_CURSOR = """\
{
  "mcpServers": {
    "sandbox": {
      "url": "http://localhost:8000/mcp/",
      "headers": {
        "X-API-Key": "your-api-key"
      }
    }
  }
}
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def second_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
async def server(served: Path, second_port: int) -> AsyncGenerator[Server]:
    """A server that reads the file of variables, and listens on a second port."""
    file = served / ".env"
    file.write_text(ENVIRONMENT)
    async with running(
        served,
        arguments=("--env-file", str(file)),
        CASEMATE_WARM="false",
        CASEMATE_SANDBOX_API_PORT=str(second_port),
        CASEMATE_DEFAULT_IMAGE="minimal",
    ) as server:
        yield server
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{second_port}", timeout=PATIENCE_S) as client:
            headers = {"x-api-key": KEY}
            for one in (await client.get("/sessions", headers=headers)).json()["sessions"]:
                await client.delete(f"/sessions/{one['session_id']}", headers=headers)


def curl(line: str) -> Any:
    done = subprocess.run(
        [*shlex.split(line.replace("\\\n", " ")), "-s", "--max-time", str(PATIENCE_S)],
        capture_output=True,
        check=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return json.loads(done.stdout)


async def test_the_readmes_call_works_as_printed_but_for_port_and_key(server: Server, second_port: int) -> None:
    line = README_CURL.replace(":8000", f":{second_port}").replace("dev-key", KEY)
    done = await anyio.to_thread.run_sync(curl, line)
    assert done["exit_code"] == 0, done
    assert "total 0" in done["stdout"] or "." in done["stdout"]
    again = await anyio.to_thread.run_sync(curl, line)
    assert again["container_id"] == done["container_id"]
    refused = await anyio.to_thread.run_sync(curl, README_CURL.replace(":8000", f":{second_port}"))
    assert refused["detail"] == "Missing or invalid authentication (API key or Bearer token)"


async def test_both_ports_serve_both_apis(server: Server, second_port: int) -> None:
    first = server.url.removesuffix("/api/mcp")
    for base in (first, f"http://127.0.0.1:{second_port}"):
        async with httpx.AsyncClient(base_url=base, headers={"x-api-key": KEY}, timeout=PATIENCE_S) as client:
            assert (await client.get("/ready")).json()["status"] == "ready"
            assert (await client.get("/sessions")).status_code == 200
            assert (await client.get("/api/sandboxes")).status_code == 200


@pytest.mark.parametrize("era", ERAS)
async def test_the_readmes_configuration_of_cursor_works(server: Server, second_port: int, era: Era) -> None:
    text = README_CURSOR.replace(":8000", f":{second_port}").replace("your-api-key", KEY)
    entry = json.loads(text)["mcpServers"]["sandbox"]
    async with (
        create_mcp_http_client(headers=entry["headers"]) as opened,
        Client(streamable_http_client(entry["url"], http_client=opened), mode=era) as client,
    ):
        done = await client.call_tool(
            "execute", {"session_id": "my-session-1", "command": "id -u; cat note 2>&1 || true"}
        )
        assert not done.is_error, text_of(done)
        assert done.structured_content is not None
        assert done.structured_content["stdout"].startswith("1000\n")


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_walks_through_a_sessions_life(
    server: Server, second_port: int, node: Path, era: str
) -> None:
    inspector = Inspector(str(node), f"http://127.0.0.1:{second_port}/mcp/", KEY, era)

    def walk() -> None:
        tools = {tool["name"] for tool in inspector.run("tools/list")["tools"]}
        assert tools == {
            *("create_session", "delete_session", "execute"),
            *("workspace_list", "workspace_read", "workspace_write", "workspace_delete"),
        }
        name = f"inspector-{era}"
        inspector.call("workspace_write", session_id=name, path="a/b.txt", content="text")
        done = json.loads(inspector.call("execute", session_id=name, command="cat a/b.txt; exit 3"))
        assert (done["stdout"], done["exit_code"]) == ("text", 3)
        said = inspector.call("workspace_read", session_id=name, path="../x", expect=TOOL_ERROR)
        assert said.startswith("Path escapes workspace")
        assert json.loads(inspector.call("delete_session", session_id=name)) == {
            "status": "deleted",
            "session_id": name,
        }

    await anyio.to_thread.run_sync(walk)


async def test_a_session_is_found_again_after_its_server_was_killed(tmp_path: Path, served: Path) -> None:
    async with places(tmp_path, served) as place:
        data = place("killed")
        seen: list[dict[str, Any]] = []
        for command in ("echo kept > file", "cat file; echo again"):
            async with (
                serving(data, CASEMATE_SANDBOX_API="true") as server,
                http(server) as client,
            ):
                answer = await client.post("/execute", json={"session_id": "s", "command": command})
                assert answer.status_code == 200, answer.text
                seen.append(answer.json())
                if len(seen) == 1:
                    await server.process.kill()
                else:
                    await client.delete("/sessions/s")
        assert seen[0]["sandbox_id"] == seen[1]["sandbox_id"]
        assert seen[1]["stdout"] == "kept\nagain\n"


def test_variables_without_effect_are_told(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(ENVIRONMENT)
    environment = os.environ | {"CASEMATE_DATA": str(tmp_path)}
    done = subprocess.run(
        [casemate(), "config", "show", "--json", "--env-file", str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    report = json.loads(done.stdout)
    told = {one["variable"]: one["reason"] for one in report["withoutEffect"]}
    assert set(told) >= {"REDIS_HOST", "REDIS_PORT"}
    assert told["REDIS_HOST"].startswith("Redis is not needed")
    assert any("JWT_SECRET is the example" in warning for warning in report["warnings"])
