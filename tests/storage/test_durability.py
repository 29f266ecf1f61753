"""Kill -9 in the middle of writing: whatever was acknowledged is there, and nothing is there by halves."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from storage.collection import CollectionSpec, Index
from storage.sqlite import SqliteDatabase

pytestmark = pytest.mark.anyio

BY_WRITER = Index(name="by_writer", fields=("writer", "_id"))
NOTES = CollectionSpec(name="notes", indexes=(BY_WRITER,))
ROOT = Path(__file__).parents[2]
# Each line of the output is an acknowledgement: the id and the version that the store said it keeps.
WRITE = """
import json, os, sys, anyio
from pathlib import Path
from storage.collection import CollectionSpec, Index
from storage.ids import new_id
from storage.sqlite import SqliteDatabase

async def main():
    async with SqliteDatabase(Path(sys.argv[1])) as database:
        index = Index(name="by_writer", fields=("writer", "_id"))
        notes = await database.collection(CollectionSpec(name="notes", indexes=(index,)))

        async def write(writer):
            while True:
                stored = await notes.insert({"_id": new_id(), "writer": writer, "text": writer * 300})
                acknowledge(stored)
                acknowledge(await notes.replace({**stored, "text": "replaced"}))

        def acknowledge(stored):
            os.write(1, json.dumps([stored["_id"], stored["version"]]).encode() + b"\\n")

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(write, f"writer-{number}")

anyio.run(main)
"""


@pytest.mark.parametrize("acknowledged", [1, 40, 400, 1500])
async def test_kill_9_while_writing_loses_no_acknowledged_write(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "store.db"
    lines = await anyio.to_thread.run_sync(written_until_killed, path, acknowledged)
    promised: dict[str, int] = {}
    for line in lines:
        document_id, version = json.loads(line)
        promised[document_id] = max(version, promised.get(document_id, 0))
    async with SqliteDatabase(path) as database:
        notes = await database.collection(NOTES)
        assert await database._read(lambda connection: connection.execute("PRAGMA integrity_check").fetchall()) == [
            ("ok",)
        ]
        for document_id, version in promised.items():
            found = await notes.get(document_id)
            assert found is not None
            assert found["version"] >= version
        kept = await notes.find(BY_WRITER, limit=10_000)
        assert len(kept) == await notes.count(BY_WRITER) >= len(promised)
        for found in kept:
            assert found["text"] == ("replaced" if found["version"] == 2 else found["writer"] * 300)
        assert (await notes.insert({"_id": "after", "writer": "w"}))["version"] == 1


def written_until_killed(path: Path, acknowledged: int) -> list[bytes]:
    with subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        process.kill()
        lines += process.stdout.readlines()
    # The last line may be cut: what was not read in whole was not acknowledged.
    return [line for line in lines if line.endswith(b"\n")]
