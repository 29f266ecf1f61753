"""The store's troubles as those outside see them: refused starts, calls that fail, a server that goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from pydantic import SecretStr

from bench.server import call, casemate
from mcp_server.app import open_services
from mcp_server.settings import Settings
from storage.errors import StoreUnavailable
from storage.sqlite import APPLICATION, FORMAT, SqliteDatabase
from tests.mcp_server.edge import text_of
from tests.mongo_server.server import MongoServer, missing
from tests.server_process import NAMESPACE, QUICK, SMALL, Place, cli, http, noted, places, refused, serving
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

STORE = "casemate.db"
MAY_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(
        [*NAMESPACE, "mount -t tmpfs none /mnt"], check=False, capture_output=True, timeout=PATIENCE_S
    ).returncode
    == 0
)
needs_mounts = pytest.mark.skipif(not MAY_MOUNT, reason="may not mount here, not even in a namespace of its own")
needs_mongo = pytest.mark.skipif(bool(missing()), reason=f"No MongoDB server: {missing()}")


@pytest.fixture
async def place(tmp_path: Path, served: Path) -> AsyncGenerator[Place]:
    async with places(tmp_path, served) as make:
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
            ticking = "while :; do date +%s >>/root/ticks; sleep 0.2; done"
            await call(client, "run_background_command", id=box, command=ticking)
            # From here on nobody asks the guest anything until the database is back.
            (started,) = await noted(rest, "run_background_command")

            mongo.kill()
            killed = time.time()
            failed = await client.call_tool("execute_command", {"id": box, "command": "true"})
            assert failed.is_error
            assert "does not answer" in text_of(failed)
            assert "The same call may succeed later" in text_of(failed)
            # In the end the key's last check is too old: the gate itself cannot tell who calls.
            with anyio.fail_after(PATIENCE_S):
                while "API keys cannot be checked now" not in text_of(failed):
                    failed = await client.call_tool("execute_command", {"id": box, "command": "true"})
                    assert failed.is_error
            assert "try again" in text_of(failed)
            for path in ("/api/sandboxes", "/api/orgs/apikeys", f"/api/sandboxes/{box}"):
                answer = await rest.get(path)
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
            ready = await rest.get("/ready")
            assert ready.status_code == 503
            parts = ready.json()["parts"]
            assert "does not answer" in parts.pop("store")
            assert set(parts.values()) == {"ok"}
            assert (await rest.get("/health")).status_code == 200
            assert len(orphans(data / "instances")) == 1

            await anyio.to_thread.run_sync(mongo.start)
            back = time.time()
            with anyio.fail_after(PATIENCE_S):
                while (await rest.get("/api/sandboxes")).status_code != 200:
                    await anyio.sleep(0.1)
                assert (await rest.get("/ready")).status_code == 200
                assert (await call(client, "execute_command", id=box, command="echo alive")).startswith("alive")
            shown = await call(client, "execute_command", id=box, command="sort -u /root/ticks")
            ticks = [int(word) for word in shown.split() if word.isdecimal()]
            assert any(killed + 1 < tick < back - 1 for tick in ticks), "it went on meanwhile"
            stopped_at_the_gate = await noted(rest, "", decision="failed", org="-", least=3)
            assert {record["status"] for record in stopped_at_the_gate} == {503}
            # As many as there was time for before the key's last check was too old.
            of_then = await noted(rest, "execute_command", decision="failed")
            assert {record["sandbox"] for record in of_then} == {box}
            assert all(record["time"] > started["time"] for record in of_then)
            await call(client, "delete_sandbox", id=box)
        assert server.process.alive() is False
    log = (data / "server.log").read_text()
    assert "audit written again" in log
    assert "Traceback" not in log


@needs_mongo
async def test_a_server_whose_database_is_gone_stops_as_any_other(place: Place, tmp_path: Path) -> None:
    with MongoServer(file=tmp_path / "mongo.mv") as mongo:
        store = {"CASEMATE_MONGO_URI": mongo.uri, "CASEMATE_MONGO_DB": "casemate"}
        async with serving(place("a"), **store) as server, http(server) as rest:
            assert (await rest.get("/api/users/me")).status_code == 200
            mongo.kill()
            assert (await rest.get("/ready")).status_code == 503
            os.kill(server.process.pid, signal.SIGTERM)
            with anyio.fail_after(PATIENCE_S):
                await server.process.ended()


@needs_mongo
async def test_a_server_whose_database_is_gone_puts_its_machines_to_sleep_all_the_same(
    place: Place, tmp_path: Path
) -> None:
    data = place("a")
    with MongoServer(file=tmp_path / "mongo.mv") as mongo:
        store = {"CASEMATE_MONGO_URI": mongo.uri, "CASEMATE_MONGO_DB": "casemate", "CASEMATE_ON_STOP": "sleep"}
        async with serving(data, **store) as server, server.client() as client:
            box = json.loads(await call(client, "create_sandbox", name="box", **SMALL))["id"]
            await call(client, "execute_command", id=box, command="echo remembered > /dev/shm/word")
            mongo.kill()
            os.kill(server.process.pid, signal.SIGTERM)
            with anyio.fail_after(PATIENCE_S):
                await server.process.ended()
        assert orphans(data / "instances") == {}
        await anyio.to_thread.run_sync(mongo.start)
        async with serving(data, **store) as server, server.client() as client:
            assert "remembered" in await call(client, "execute_command", id=box, command="cat /dev/shm/word")
            await call(client, "delete_sandbox", id=box)
    assert "Traceback" not in (data / "server.log").read_text()


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
    settings = Settings(data=data, mongo_uri=SecretStr(uri), network_way="user")
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        async with open_services(settings, patience_s=1):
            pass
    assert "127.0.0.1:1" in str(caught.value)
    assert "hush" not in str(caught.value)
    copying = ("store", "copy", "--from", "mongodb", "--to", "sqlite")
    (line,) = cli(data, *copying, expect=75, CASEMATE_MONGO_URI=uri).splitlines()
    assert "check that MongoDB is running" in line
    assert "hush" not in line


def corrupt(store: Path) -> None:
    store.write_bytes(b"This is no database at all. " * 500)


def damaged(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE things (id)")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute("PRAGMA user_version = 1")
    with store.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 2000)


def newer(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")


def foreign(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE precious (x)")
        connection.execute(f"PRAGMA user_version = {FORMAT}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (corrupt, ("is not a store", "restore it from a backup")),
        (damaged, ("is damaged", "restore it from a backup")),
        (newer, (f"format {FORMAT + 1}", "use a newer release")),
        (foreign, ("database of another program", "move it away")),
    ],
)
async def test_a_file_that_is_no_store_of_ours_stops_the_start_and_stays_as_it_is(
    place: Place, spoil: Callable[[Path], None], words: tuple[str, str]
) -> None:
    store = place("a") / STORE
    spoil(store)
    before = store.read_bytes()
    line = await refused(store.parent)
    assert str(store) in line
    for word in words:
        assert word in line
    assert store.read_bytes() == before


async def test_a_store_that_another_process_holds_stops_the_start(place: Place) -> None:
    data = place("a")
    async with SqliteDatabase(data / STORE):
        line = await refused(data)
    assert f"in use by process {os.getpid()}" in line


async def test_two_servers_do_not_work_on_one_directory_of_machines(place: Place) -> None:
    first, second = place("a"), place("b")
    async with serving(first):
        line = await refused(second, CASEMATE_INSTANCES=str(first / "instances"))
    assert "Another Casemate uses" in line
    assert "CASEMATE_INSTANCES" in line


READ_ONLY_DIRECTORY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
READ_ONLY_FILE = 'mount --bind "$1/casemate.db" "$1/casemate.db" && mount -o remount,ro,bind "$1/casemate.db"'
FULL_DISK = 'mount -t tmpfs -o size=64k none "$1" && ln -s "$2" "$1/images"; cat /dev/zero >"$1/ballast" 2>/dev/null'


@needs_mounts
@pytest.mark.parametrize(
    ("spoil", "word"),
    [(READ_ONLY_DIRECTORY, "CASEMATE_DATA"), (READ_ONLY_FILE, STORE), (FULL_DISK, "free disk space")],
    ids=["a read-only directory", "a read-only file", "a full disk"],
)
async def test_a_store_that_cannot_be_written_stops_the_start(place: Place, spoil: str, word: str) -> None:
    data = place("a")
    async with SqliteDatabase(data / STORE):
        pass
    before = (data / STORE).read_bytes()
    line = await refused(data, within=spoil)
    assert word in line
    assert (data / STORE).read_bytes() == before


@needs_mounts
async def test_while_the_disk_is_full_reads_go_on_and_afterwards_everything(place: Place) -> None:
    async with on_a_small_disk(place("a")) as (disk, log, rest):
        assert (await rest.get("/api/users/me")).status_code == 200
        fill(disk / "ballast")
        full = await until_refused(rest)
        assert full.status_code == 507
        assert "no space left; free disk space" in full.text
        assert (await rest.get("/api/users/me")).status_code == 200
        assert (await rest.get("/api/sandboxes")).json()["data"] == []
        ready = await rest.get("/ready")
        assert ready.status_code == 503
        assert "free disk space" in ready.json()["parts"]["store"]
        assert (await rest.get("/health")).status_code == 200
        (disk / "ballast").unlink()
        assert (await rest.post("/api/orgs/apikeys", json={"keyName": "later"})).status_code == 200
        assert (await rest.get("/ready")).status_code == 200
        (failed, *_) = await noted(rest, "key.create", decision="failed")
        assert failed["status"] == 507
    assert "Traceback" not in log.read_text()


async def until_refused(rest: httpx.AsyncClient) -> httpx.Response:
    """Make keys until there is no room for another one."""
    for number in range(1000):
        answer = await rest.post("/api/orgs/apikeys", json={"keyName": f"key {number}"})
        if answer.status_code != 200:
            return answer
    raise AssertionError("It never got full")


def fill(ballast: Path) -> None:
    """Take all the room that there is."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@asynccontextmanager
async def on_a_small_disk(data: Path) -> AsyncGenerator[tuple[Path, Path, httpx.AsyncClient]]:
    """A server whose data directory is a disk of its own: where that is seen from here, its log, and a client."""
    mount = 'mount -t tmpfs -o size=4m none "$1" && ln -s "$2" "$1/images" && exec "$3" serve'
    images = str((data / "images").resolve())
    variables = {"CASEMATE_DATA": str(data), "CASEMATE_PORT": "0", "CASEMATE_LOG_LEVEL": "warning", **QUICK}
    log = data.with_suffix(".log")
    with log.open("w") as file:
        process = await anyio.open_process(
            [*NAMESPACE, mount, "sh", str(data), images, casemate()],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=file.fileno(),
        )
    # The process is the shell's and then the server's own: its root leads into its namespace.
    disk = Path(f"/proc/{process.pid}/root", *data.parts[1:])
    try:
        with anyio.fail_after(PATIENCE_S):
            while not (url := read(disk / "server.lock")):
                assert process.returncode is None, log.read_text()
                await anyio.sleep(0.05)
        async with httpx.AsyncClient(
            base_url=url, headers={"x-api-key": read(disk / "key")}, timeout=PATIENCE_S
        ) as rest:
            yield disk, log, rest
    finally:
        with anyio.CancelScope(shield=True), suppress(ProcessLookupError):
            process.terminate()
            await process.wait()


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
