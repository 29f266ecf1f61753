"""The store's troubles as those outside see them: starts refused, calls that fail clearly, and a server that goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from pydantic import SecretStr

from bench.server import call
from mcp_server.app import open_parts
from mcp_server.settings import Settings
from storage.errors import StoreUnavailable
from tests.mcp_server.edge import text_of
from tests.mongo_server.server import MongoServer, missing
from tests.server_process import SMALL, Place, cli, http, noted, places, serving
from vmm.hypervisor.process import strays

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

STORE = "casemate.db"
FAST_S = 6
STOP_S = 6
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MAY_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(
        [*NAMESPACE, "mount -t tmpfs none /mnt"], check=False, capture_output=True, timeout=10
    ).returncode
    == 0
)
needs_mounts = pytest.mark.skipif(not MAY_MOUNT, reason="may not mount here, not even in a namespace of its own")
needs_mongo = pytest.mark.skipif(bool(missing()), reason=f"No MongoDB server: {missing()}")


@pytest.fixture
async def place(tmp_path: Path, served: Path) -> AsyncGenerator[Place]:
    async with places(tmp_path, served / "images") as make:
        yield make


@needs_mongo
async def test_when_the_database_goes_away_calls_fail_at_once_machines_go_on_and_all_works_when_it_is_back(
    place: Place, tmp_path: Path
) -> None:
    data = place("a")
    with MongoServer(file=tmp_path / "mongo.mv") as mongo:
        store = {"CASEMATE_MONGO_URI": mongo.uri, "CASEMATE_MONGO_DB": "casemate"}
        async with serving(data, **store) as server, server.client() as client, http(server) as rest:
            box = json.loads(await call(client, "create_sandbox", name="box", **SMALL))["id"]
            ticking = "while :; do echo . >>/root/ticks; sleep 0.2; done"
            await call(client, "run_background_command", id=box, command=ticking)
            # From here on nobody asks the guest anything until the database is back.
            (started,) = await noted(rest, "run_background_command")

            mongo.kill()
            killed = time.monotonic()
            failed = await client.call_tool("execute_command", {"id": box, "command": "true"})
            assert time.monotonic() - killed < FAST_S
            assert failed.is_error
            assert "does not answer" in text_of(failed)
            assert "The same call may succeed later" in text_of(failed)
            for path in ("/api/sandboxes", "/api/orgs/apikeys", f"/api/sandboxes/{box}"):
                answer = await timed(rest, path)
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
            ready = await timed(rest, "/ready")
            assert ready.status_code == 503
            parts = ready.json()["parts"]
            assert "does not answer" in parts.pop("store")
            assert set(parts.values()) == {"ok"}
            assert (await timed(rest, "/health")).status_code == 200
            assert len(strays(data / "instances")) == 1

            await anyio.to_thread.run_sync(mongo.start)
            down_s = time.monotonic() - killed
            with anyio.fail_after(10):
                while (await rest.get("/api/sandboxes")).status_code != 200:
                    await anyio.sleep(0.1)
                assert (await rest.get("/ready")).status_code == 200
                assert (await call(client, "execute_command", id=box, command="echo alive")).startswith("alive")
            ticks = int((await call(client, "execute_command", id=box, command="wc -l </root/ticks")).split()[0])
            assert ticks > 2 * down_s, "it counts five times a second"
            stopped_at_the_gate = await noted(rest, "", decision="failed", org="-", least=3)
            assert {record["status"] for record in stopped_at_the_gate} == {503}
            (of_then,) = await noted(rest, "execute_command", decision="failed")
            assert of_then["sandbox"] == box
            assert of_then["time"] > started["time"]
            await call(client, "delete_sandbox", id=box)
        assert server.process.alive() is False
    log = (data / "server.log").read_text()
    assert "audit written again" in log
    assert "Traceback" not in log


async def timed(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """The answer, which must come soon."""
    began = time.monotonic()
    answer = await client.get(path)
    assert time.monotonic() - began < FAST_S
    return answer


@needs_mongo
async def test_a_server_whose_database_is_gone_stops_as_fast_as_any_other(place: Place, tmp_path: Path) -> None:
    with MongoServer(file=tmp_path / "mongo.mv") as mongo:
        store = {"CASEMATE_MONGO_URI": mongo.uri, "CASEMATE_MONGO_DB": "casemate"}
        async with serving(place("a"), **store) as server, http(server) as rest:
            assert (await rest.get("/api/users/me")).status_code == 200
            mongo.kill()
            assert (await rest.get("/ready")).status_code == 503
            began = time.monotonic()
            os.kill(server.process.pid, signal.SIGTERM)
            with anyio.fail_after(30):
                await server.process.ended()
            assert time.monotonic() - began < STOP_S


@needs_mongo
async def test_a_start_waits_for_the_database_and_says_so(place: Place, tmp_path: Path) -> None:
    data = place("a")
    mongo = MongoServer(file=tmp_path / "mongo.mv")
    with mongo:
        store = {"CASEMATE_MONGO_URI": mongo.uri, "CASEMATE_MONGO_DB": "casemate"}

    async def come_late() -> None:
        log = data / "server.log"
        while not log.exists() or "waiting for the store" not in log.read_text():
            await anyio.sleep(0.1)
        await anyio.to_thread.run_sync(mongo.start)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come_late)
            async with serving(data, **store) as server, http(server) as rest:
                assert (await rest.get("/api/users/me")).status_code == 200
    finally:
        mongo.stop()
    assert "Traceback" not in (data / "server.log").read_text()


async def test_who_waits_in_vain_is_told_so_without_the_password_and_may_try_again(place: Place) -> None:
    data = place("a")
    uri = "mongodb://casemate:hush-hush@127.0.0.1:1/"
    settings = Settings(data=data, mongo_uri=SecretStr(uri))
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        async with open_parts(settings, patience_s=1):
            pass
    assert "127.0.0.1:1" in str(caught.value)
    assert "hush" not in str(caught.value)
    copying = ("store", "copy", "--from", "mongodb", "--to", "sqlite")
    (line,) = cli(data, *copying, expect=75, CASEMATE_MONGO_URI=uri).splitlines()
    assert "check that MongoDB runs" in line
    assert "hush" not in line
