"""The SQLite file: who may have it, what is refused, and what becomes of a store that is full or damaged."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.collection import Collection, CollectionSpec, Index
from storage.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreNewer, StoreReadOnly, StoreUnavailable
from storage.ids import new_id
from storage.sqlite import FORMAT, SqliteDatabase

pytestmark = pytest.mark.anyio

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER,))
ROOT = Path(__file__).parents[2]
HOLD = """
import sys, anyio
from pathlib import Path
from storage.sqlite import SqliteDatabase

async def hold():
    async with SqliteDatabase(Path(sys.argv[1])):
        sys.stdout.write("open\\n")
        sys.stdout.flush()
        await anyio.sleep_forever()

anyio.run(hold)
"""
TRY = """
import os, sys, anyio
from pathlib import Path
from storage.errors import StoreError
from storage.sqlite import SqliteDatabase

async def attempt():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        async with SqliteDatabase(Path(sys.argv[1])):
            sys.stdout.write("opened")
    except StoreError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")

anyio.run(attempt)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def thing(owner: str = "alice") -> dict[str, object]:
    return {"_id": new_id(), "owner": owner, "padding": "x" * 500}


async def fill(things: Collection) -> int:
    """Insert until the store refuses; returns how many it took."""
    for number in range(100_000):
        try:
            await things.insert(thing())
        except StoreFull:
            return number
    raise AssertionError("It never got full")


async def test_its_files_are_its_owners_alone(path: Path) -> None:
    deep = path.parent / "a" / "b" / "store.db"
    async with SqliteDatabase(deep) as database:
        await (await database.collection(THINGS)).insert(thing())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in deep.parent.iterdir()}
    assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), 0o600)
    assert stat.S_IMODE(deep.parent.stat().st_mode) == 0o700


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.touch(mode=0o644)
    async with SqliteDatabase(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_after_closing_all_is_in_the_one_file(path: Path) -> None:
    async with SqliteDatabase(path) as database:
        things = await database.collection(THINGS)
        stored = await things.insert(thing())
        await things.get(stored["_id"])
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]


async def test_every_commit_is_synced_to_a_write_ahead_log(path: Path) -> None:
    async with SqliteDatabase(path) as database:

        def modes(connection: sqlite3.Connection) -> tuple[str, int]:
            return (
                connection.execute("PRAGMA journal_mode").fetchone()[0],
                connection.execute("PRAGMA synchronous").fetchone()[0],
            )

        assert await database._write(modes) == ("wal", 2)
        assert await database._read(modes) == ("wal", 2)


async def test_reads_cannot_write(path: Path) -> None:
    async with SqliteDatabase(path) as database:
        await database.collection(THINGS)
        with pytest.raises(StoreReadOnly):
            await database._read(lambda connection: connection.execute("DELETE FROM things"))


async def test_a_second_opening_in_the_same_process_is_refused(path: Path) -> None:
    async with SqliteDatabase(path) as database:
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            await SqliteDatabase(path).open()
        with pytest.raises(StoreUnavailable, match="already"):
            await database.open()
        await database.ping()


async def test_a_second_process_is_refused_in_one_line_that_names_the_first(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(StoreLocked) as caught:
        await SqliteDatabase(path).open()
    assert str(holder.pid) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_kill_9_lets_go_of_the_lock_although_a_child_lives_on(path: Path, tmp_path: Path) -> None:
    script = HOLD.replace(
        "await anyio.sleep_forever()",
        "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "        sys.stdout.write(f'{child.pid}\\n'); sys.stdout.flush()\n"
        "        await anyio.sleep_forever()",
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            async with SqliteDatabase(path) as database:
                await database.ping()
        finally:
            os.kill(child, signal.SIGKILL)


async def test_a_newer_store_is_refused_and_left_as_it_is(path: Path) -> None:
    async with SqliteDatabase(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreNewer, match=f"format {FORMAT + 1}"):
        await SqliteDatabase(path).open()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE precious (x)",
        f"CREATE TABLE precious (x); PRAGMA user_version = {FORMAT}",
        f"PRAGMA user_version = {FORMAT}",
        "PRAGMA application_id = 1",
    ],
)
async def test_another_programs_database_is_refused_and_left_as_it_is(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program"):
        await SqliteDatabase(path).open()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"This is no database at all. " * 100)
    with pytest.raises(StoreCorrupt, match="not a store"):
        await SqliteDatabase(path).open()
    assert path.read_bytes().startswith(b"This is no database")


async def test_a_refused_store_can_be_opened_once_the_cause_is_gone(path: Path) -> None:
    path.write_bytes(b"This is no database at all. " * 100)
    database = SqliteDatabase(path)
    with pytest.raises(StoreCorrupt):
        await database.open()
    path.unlink()
    async with database:
        await database.ping()


async def test_damage_inside_the_file_is_reported_where_it_is_met(path: Path) -> None:
    async with SqliteDatabase(path) as database:
        things = await database.collection(THINGS)
        for _ in range(300):
            await things.insert(thing())
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xff" * (len(damaged) - 8192)
    path.write_bytes(damaged)
    with pytest.raises(StoreCorrupt, match="damaged"):
        async with SqliteDatabase(path) as database:
            await (await database.collection(THINGS)).find(BY_OWNER, limit=300)


async def test_a_full_store_refuses_to_grow_and_goes_on_otherwise(path: Path) -> None:
    async with SqliteDatabase(path, max_bytes=256 * 1024) as database:
        things = await database.collection(THINGS)
        took = await fill(things)
        assert took > 100
        assert await things.count(BY_OWNER) == took
        assert path.stat().st_size <= 256 * 1024
        for found in await things.find(BY_OWNER, limit=20):
            assert await things.delete(found["_id"]) is True
        await things.insert(thing("bob"))
    async with SqliteDatabase(path) as database:
        assert await (await database.collection(THINGS)).count(BY_OWNER) == took - 19


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk_loses_nothing_and_is_survived(tmp_path: Path) -> None:
    script = """
import os, sys, anyio
from pathlib import Path
from storage.collection import CollectionSpec, Index
from storage.errors import StoreFull, StoreError
from storage.ids import new_id
from storage.sqlite import SqliteDatabase

async def main():
    disk = Path(sys.argv[1])
    index = Index(name="by_owner", fields=("owner", "_id"))
    async with SqliteDatabase(disk / "store.db") as database:
        things = await database.collection(CollectionSpec(name="things", indexes=(index,)))
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        took, failed = 0, None
        while failed is None:
            try:
                await things.insert({"_id": new_id(), "owner": "a", "padding": "x" * 5000})
                took += 1
            except StoreError as error:
                failed = error
        assert isinstance(failed, StoreFull), repr(failed)
        assert await things.count(index) == took
        try:
            await database.ping()
        except StoreFull:
            pass
        ballast.unlink()
        await database.ping()
        await things.insert({"_id": new_id(), "owner": "a"})
    async with SqliteDatabase(disk / "store.db") as database:
        things = await database.collection(CollectionSpec(name="things", indexes=(index,)))
        assert await things.count(index) == took + 1
    sys.stdout.write("survived")

anyio.run(main)
"""
    mount = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    done = subprocess.run(
        [*command, str(tmp_path), sys.executable, script], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "survived", done.stderr


def test_a_store_that_may_not_be_written_is_refused() -> None:
    # Root may write anything, so somebody else tries; the directory of tests is closed to that one.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "store.db").touch(mode=0o600)
        directory.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", TRY, str(directory / "store.db")],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        directory.chmod(0o755)
    assert done.stdout.startswith("StoreReadOnly: Cannot write")
    assert name in done.stdout


@pytest.mark.parametrize("kind", ["a directory", "below a file"])
async def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    path = tmp_path / "directory" if kind == "a directory" else tmp_path / "file" / "store.db"
    with pytest.raises(StoreError, match=str(path.name)):
        await SqliteDatabase(path).open()
    async with SqliteDatabase(tmp_path / "store.db"):
        pass


async def test_a_backup_that_holds_the_file_stops_no_reading(path: Path) -> None:
    async with SqliteDatabase(path) as database:
        things = await database.collection(THINGS)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await things.count(BY_OWNER) == 0
            other.execute("ROLLBACK")
        await things.insert(thing())
