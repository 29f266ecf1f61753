"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import Process
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_server.http.serve import listen
from tests.mcp_server.edge import Tools, text_of
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue

pytestmark = pytest.mark.anyio

CASEMATE = Path(sys.executable).parent / "casemate"


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs `casemate` on a data directory."""

    data: Path
    port: int

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CASEMATE_")}
        own = {"CASEMATE_DATA": str(self.data), "CASEMATE_PORT": str(self.port)}
        return kept | own | {"CASEMATE_WARM": "false", "CASEMATE_NETWORK_WAY": "user"}

    async def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        with anyio.fail_after(PATIENCE_S):
            return await anyio.run_process([CASEMATE, *arguments], env=self.env | variables, check=False)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    return Shell(tmp_path / "data", port)


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a command that was refused."""
    assert done.returncode == 2, done
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("casemate: ")
    return line


async def test_bad_settings_are_refused_in_one_line(shell: Shell) -> None:
    assert "CASEMATE_PORT=x is invalid" in refusal(await shell("serve", CASEMATE_PORT="x"))
    assert "CASEMATE_DATA=x must be an absolute path" in refusal(await shell("doctor", CASEMATE_DATA="x"))


async def test_a_data_directory_that_cannot_be_made_is_refused(shell: Shell) -> None:
    assert "cannot create" in refusal(await shell("serve", CASEMATE_DATA="/proc/casemate"))


async def test_a_port_in_use_is_refused_before_anything_is_made(shell: Shell) -> None:
    with listen("127.0.0.1", shell.port):
        assert f"Port {shell.port} of 127.0.0.1 is in use" in refusal(await shell("serve"))
    assert not shell.data.exists()


async def test_without_a_first_start_there_is_no_key_to_work_with(shell: Shell) -> None:
    for command in (("key", "path"), ("sandbox", "list"), ("sandbox", "rm", "--all")):
        assert "casemate serve creates it on its first start" in refusal(await shell(*command))


async def test_ending_sandboxes_needs_names_or_the_word_all(shell: Shell) -> None:
    assert "or --all" in refusal(await shell("sandbox", "rm"))
    assert "or --all" in refusal(await shell("sandbox", "rm", "--all", "box"))


async def test_an_unknown_image_is_refused_with_the_known_ones(shell: Shell) -> None:
    assert "code" in refusal(await shell("image", "build", "nothing"))


async def test_images_are_listed_before_any_is_built(shell: Shell) -> None:
    done = await shell("image", "list")
    assert done.returncode == 0
    assert re.search(r"^code +no ", done.stdout.decode(), re.MULTILINE)


async def test_the_doctor_speaks_json_and_tells_by_its_status(shell: Shell) -> None:
    done = await shell("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    assert {"hypervisor", "disk", "memory"} <= {finding["name"] for finding in report["findings"]}
    assert (await shell("doctor", PATH="/nowhere")).returncode == 1


@asynccontextmanager
async def running(shell: Shell) -> AsyncGenerator[Process]:
    """`casemate serve` until the block ends, if it has not ended by itself."""
    process = await anyio.open_process([CASEMATE, "serve"], env=shell.env, stdin=subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{shell.port}") as http:
            with anyio.fail_after(PATIENCE_S):
                while True:
                    assert process.returncode is None, await printed(process)
                    try:
                        if (await http.get("/ready")).status_code == 200:
                            break
                    except httpx.TransportError:
                        await anyio.sleep(0.05)
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def printed(process: Process) -> tuple[str, str]:
    """Everything that it wrote, to standard output and standard error."""
    texts: list[str] = []
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        texts.append(b"".join([chunk async for chunk in stream]).decode())
    return texts[0], texts[1]


async def stopped(process: Process, number: signal.Signals) -> tuple[str, str]:
    """Stop the server by a signal, within five seconds."""
    process.send_signal(number)
    with anyio.fail_after(PATIENCE_S):
        assert await process.wait() == 0
    return await printed(process)


@asynccontextmanager
async def client_of(shell: Shell) -> AsyncGenerator[Client]:
    key = (shell.data / "key").read_text().strip()
    async with (
        create_mcp_http_client(headers={"X-API-Key": key}) as http,
        Client(streamable_http_client(f"http://127.0.0.1:{shell.port}/api/mcp", http_client=http)) as client,
    ):
        yield client


@pytest.mark.vm
async def test_a_server_is_started_used_stopped_started_again_and_emptied(
    shell: Shell, catalogue: Catalogue, image_root: Path, templates: Path
) -> None:
    del catalogue  # Only that its images are built is needed.
    shell.data.mkdir()
    (shell.data / "images").symlink_to(image_root)
    (shell.data / "templates").symlink_to(templates)
    try:
        async with running(shell) as process:
            assert "reachable at http://127.0.0.1:" in refusal(await shell("serve"))
            async with client_of(shell) as client:
                made = await client.call_tool("create_sandbox", {"name": "box", "image": "minimal", "mem": 512})
                assert not made.is_error, text_of(made)
                started = await Tools(client)("run_background_command", command="echo alive; sleep 1000")
                pid = int(started.split("pid ")[1].split(".")[0])
            out, err = await stopped(process, signal.SIGTERM)
        assert f"Casemate serves on http://127.0.0.1:{shell.port}/api/mcp" in out
        assert "claude mcp add --transport http casemate" in out
        assert "1 machine keeps running" in err
        assert "casemate sandbox rm --all" in err
        key = (shell.data / "key").read_text().strip()
        assert key not in out + err
        assert (shell.data / "key").stat().st_mode & 0o777 == 0o600

        alone = await shell("sandbox", "list")
        assert re.search(r"box +running +minimal:latest +1 +512", alone.stdout.decode()), alone

        async with running(shell) as process:
            async with client_of(shell) as client:
                read = await Tools(client)("read_process_output", pid=pid)
                assert read.startswith("alive\n[still running")
            through = await shell("sandbox", "list")
            assert through.stdout == alone.stdout
            assert b"Deleted 1 sandbox." in (await shell("sandbox", "rm", "--all")).stderr
            _, err = await stopped(process, signal.SIGINT)
        assert "Stopped; no machines are running." in err
    finally:
        with anyio.CancelScope(shield=True):
            await shell("sandbox", "rm", "--all")
    assert orphans(shell.data / "instances") == {}
