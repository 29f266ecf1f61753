"""The server as a process: what it says, how it stops, and what a new one finds after kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import TaskStatus

from bench.server import Server, call, casemate, running
from tests.mcp_server.edge import ACCEPT, initialize, rpc
from tests.server_process import SMALL, cli
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


async def test_the_first_start_makes_a_key_for_its_owner_alone(served: Path) -> None:
    async with running(served) as server:
        key = served / "key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_text().startswith("cm_")
        async with httpx.AsyncClient(base_url=server.url.removesuffix("/api/mcp")) as http:
            assert (await http.get("/health")).status_code == 200
            parts = (await http.get("/ready")).json()["parts"]
            assert parts == {"store": "ok", "hypervisor": "ok", "image": "ok"}
            assert (await http.post("/api/mcp", json={})).status_code == 401
            wrong = await http.post("/api/mcp", json={}, headers={"x-api-key": "cm_" + "x" * 43})
            assert wrong.status_code == 401
            assert "www-authenticate" not in wrong.headers
            assert (await http.get("/.well-known/oauth-protected-resource")).status_code == 404


async def test_after_kill_9_machines_processes_and_terminals_are_as_they_were(served: Path) -> None:
    async with running(served) as server:
        async with server.client() as client:
            box = json.loads(await call(client, "create_sandbox", name="box", **SMALL))["id"]
            await call(client, "write_file", id=box, path="/root/kept", content="kept")
            started = await call(client, "run_background_command", id=box, command="echo before; sleep 6; echo after")
            pid = int(started.split("pid ")[1].split(".")[0])
            terminal = (await call(client, "terminal_open", id=box)).split("terminal_id ")[1].split()[0]
            await call(client, "terminal_send", id=box, terminal_id=terminal, text="word=kept", keys=["enter"])
            await call(client, "create_sandbox", name="doomed", **SMALL)
        machines = orphans(served / "instances")
        os.kill(server.process.pid, signal.SIGKILL)
    ((victim,),) = (processes for place, processes in machines.items() if place.name != box)
    os.kill(victim.pid, signal.SIGKILL)
    _litter(served)
    async with running(served) as server, server.client() as client:
        assert set(orphans(served / "instances")) == {served / "instances" / box}
        assert not (served / "instances" / ("0" * 24)).exists()
        assert await call(client, "read_file", id=box, path="/root/kept") == "kept"
        output = await call(client, "read_process_output", id=box, pid=pid, stdout_offset=7, wait=20)
        assert "after" in output
        shown = await call(
            client,
            "terminal_send",
            id=box,
            terminal_id=terminal,
            text='echo "<$word>"',
            keys=["enter"],
            pattern="<kept>",
        )
        assert "<kept>" in shown
        doomed = json.loads(await call(client, "get_sandbox", id="doomed"))
        assert doomed["status"] == "killed"
        lost = await client.call_tool("execute_command", {"id": "doomed", "command": "true"})
        assert lost.is_error
        assert "while the server was down" in str(lost.content)
        await call(client, "delete_sandbox", id=box)
        await call(client, "delete_sandbox", id="doomed")
        assert list((served / "instances").iterdir()) == []


def _litter(data: Path) -> None:
    """What a crash in the middle of a create leaves: a directory that no record knows."""
    (data / "instances" / ("0" * 24)).mkdir()


async def test_kill_9_in_the_middle_of_a_create_leaves_all_of_it_or_nothing(served: Path) -> None:
    for delay in (0.03, 0.1, 0.2, 0.3):
        async with running(served) as server, anyio.create_task_group() as tasks:
            await tasks.start(_create_until_the_end, server)
            await anyio.sleep(delay)
            os.kill(server.process.pid, signal.SIGKILL)
    async with running(served) as server, server.client() as client:
        left = json.loads(await call(client, "list_sandboxes"))["sandboxes"]
        ids = {sandbox["id"] for sandbox in left}
        assert {path.name for path in (served / "instances").iterdir()} == ids
        assert {path.name for path in orphans(served / "instances")} == ids
        for sandbox in left:
            assert (await call(client, "execute_command", id=sandbox["id"], command="echo alive")).startswith("alive")
            await call(client, "delete_sandbox", id=sandbox["id"])
    assert orphans(served) == {}


async def _create_until_the_end(server: Server, *, task_status: TaskStatus[None]) -> None:
    headers = {"x-api-key": server.key, **ACCEPT}
    async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as http:
        session = {"mcp-session-id": (await http.post(server.url, json=initialize())).headers["mcp-session-id"]}
        await http.post(server.url, json=rpc("notifications/initialized", request_id=None), headers=session)
        task_status.started()
        with contextlib.suppress(httpx.TransportError):  # the server is killed meanwhile
            wish = {"name": "create_sandbox", "arguments": {"name": "half", **SMALL}}
            await http.post(server.url, json=rpc("tools/call", wish, 2), headers=session)


async def test_sigterm_stops_the_server_and_machines_live_on(served: Path) -> None:
    async with running(served) as server:
        async with server.client() as client:
            await call(client, "create_sandbox", name="box", **SMALL)
        os.kill(server.process.pid, signal.SIGTERM)
        with anyio.fail_after(PATIENCE_S):
            await server.process.ended()
    assert len(orphans(served / "instances")) == 1
    assert "box" in cli(served, "sandbox", "list")
    cli(served, "sandbox", "rm", "--all")
    assert orphans(served / "instances") == {}
    assert list((served / "instances").iterdir()) == []


async def test_a_second_server_on_the_same_data_is_refused_in_one_line(served: Path) -> None:
    async with running(served):
        said = cli(served, "serve", expect=2)
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CASEMATE_PORT", "99999"), ("CASEMATE_DATA", "relative"), ("CASEMATE_HOST", "no.such.host.invalid")],
)
def test_a_wrong_setting_is_refused_by_name_with_the_way_out(served: Path, variable: str, value: str) -> None:
    environment = os.environ | {"CASEMATE_DATA": str(served), variable: value}
    done = subprocess.run(
        [casemate(), "serve"], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_speaks_json_and_ends_well_on_a_fit_host(served: Path) -> None:
    findings = json.loads(cli(served, "doctor", "--json"))
    assert "qemu-system-x86_64" in json.dumps(findings)


def test_images_are_listed(served: Path) -> None:
    said = cli(served, "image", "list")
    assert "code" in said
    assert "minimal" in said
