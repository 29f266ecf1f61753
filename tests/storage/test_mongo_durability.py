"""Kill -9 of the server in the middle of writing: whatever was acknowledged is there, and ours goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from storage.collection import CollectionSpec, Index, StoredCollection
from storage.errors import StoreUnavailable, VersionConflict
from storage.ids import new_id
from storage.mongo import MongoDatabase
from tests.mongo_server.server import MongoServer, missing
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(missing()), reason=f"No MongoDB server: {missing()}")]

BY_WRITER = Index(name="by_writer", fields=("writer", "_id"))
NOTES = CollectionSpec(name="notes", indexes=(BY_WRITER,))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MongoServer]:
    """A server that keeps its data in a file."""
    with MongoServer(file=tmp_path / "data.mv") as server:
        yield server


@pytest.mark.parametrize("acknowledged", [1, 150])
async def test_kill_9_of_the_server_loses_no_acknowledged_write(server: MongoServer, acknowledged: int) -> None:
    promised: dict[str, int] = {}
    enough = anyio.Event()

    async def write(notes: StoredCollection, writer: str) -> None:
        for _ in range(1000):
            stored = await notes.insert({"_id": new_id(), "writer": writer, "text": writer * 300})
            promised[stored["_id"]] = 1
            stored = await notes.replace({**stored, "text": "replaced"})
            promised[stored["_id"]] = 2
            if len(promised) >= acknowledged:
                enough.set()

    async def until_killed(notes: StoredCollection, writer: str) -> None:
        with pytest.raises(StoreUnavailable):
            await write(notes, writer)

    async with MongoDatabase(server.uri, "casemate") as database:
        notes = await database.collection(NOTES)
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(until_killed, notes, f"writer-{number}")
            await enough.wait()
            server.kill()
        with anyio.fail_after(PATIENCE_S), pytest.raises(StoreUnavailable):
            await database.ping()
        await anyio.to_thread.run_sync(server.start)
        await database.ping()
        for document_id, version in promised.items():
            found = await notes.get(document_id)
            assert found is not None
            assert found["version"] >= version
        kept = await notes.walk(limit=10_000)
        assert len(kept) == await notes.count(BY_WRITER) >= len(promised)
        for found in kept:
            assert found["text"] == ("replaced" if found["version"] == 2 else found["writer"] * 300)
        await notes.insert({"_id": "after", "writer": "w"})


async def test_a_counter_counts_every_acknowledged_change_once_across_a_restart(server: MongoServer) -> None:
    async with MongoDatabase(server.uri, "casemate") as database:
        notes = await database.collection(NOTES)
        await notes.insert({"_id": "counter", "writer": "w", "by": {}})
        sure = [0] * 4
        unsure = [0] * 4

        async def add(writer: int) -> None:
            while sure[writer] < 40:
                try:
                    seen = await notes.get("counter")
                    assert seen is not None
                    seen["by"][str(writer)] = seen["by"].get(str(writer), 0) + 1
                    await notes.replace(seen)
                except VersionConflict:
                    continue
                except StoreUnavailable:
                    unsure[writer] += 1
                    continue
                sure[writer] += 1

        async with anyio.create_task_group() as tasks:
            for writer in range(4):
                tasks.start_soon(add, writer)
            while sum(sure) < 20:
                await anyio.sleep(0.01)
            server.kill()
            await anyio.to_thread.run_sync(server.start)
        found = await notes.get("counter")
        assert found is not None
        for writer in range(4):
            assert sure[writer] <= found["by"][str(writer)] <= sure[writer] + unsure[writer]
        assert found["version"] == 1 + sum(found["by"].values())
