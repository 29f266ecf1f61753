"""Both stores alone, one caller and sixteen, small and large: `python -m bench.storage [DIRECTORY]`.

MongoDB is the server of `MONGO_TEST_URI`, or else the one of the tests, with its data in a file: a stand-in in Java
whose figures say what the adapter costs, not what MongoDB can do.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import anyio
import anyio.to_thread
from pymongo import MongoClient

from auth.keys import KEYS, KeyStore
from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.errors import VersionConflict
from storage.ids import new_id
from storage.mongo import MongoDatabase
from storage.sqlite import SqliteDatabase
from tests.mongo_server.server import MongoServer, missing

_BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
_BY_NAME = Index(name="by_name", fields=("name",), unique=True)
_THINGS = CollectionSpec(name="things", indexes=(_BY_OWNER, _BY_NAME))
_ROWS = (100, 10_000)
_CALLERS = (1, 16)
_CALLS = 2000


async def main(directory: Path) -> None:
    print("| store | what | rows | callers | calls/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|")
    sync(directory)
    async with SqliteDatabase(directory / "store.db") as database:
        await store("SQLite", database)
    uri = os.environ.get("MONGO_TEST_URI", "")
    if uri:
        async with on_mongo(uri) as database:
            await store("MongoDB", database)
    elif missing():
        print(f"No MongoDB: {missing()}", file=sys.stderr)
    else:
        server = MongoServer(file=directory / "store.mv")
        await anyio.to_thread.run_sync(server.start)
        try:
            async with on_mongo(server.uri) as database:
                await store("wire server", database)
        finally:
            await anyio.to_thread.run_sync(server.stop)


@asynccontextmanager
async def on_mongo(uri: str) -> AsyncGenerator[Database]:
    name = f"casemate_bench_{new_id()}"
    async with MongoDatabase(uri, name) as database:
        yield database
    with MongoClient[Document](uri) as client:
        await anyio.to_thread.run_sync(client.drop_database, name)


async def store(kind: str, database: Database) -> None:
    things = await database.collection(_THINGS)
    known: list[Document] = []
    for rows in _ROWS:
        while len(known) < rows:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(500, rows - len(known))):
                    tasks.start_soon(insert, things, known)
        for callers in _CALLERS:
            await reads(f"{kind} | %s | {rows:,} | {callers}", things, known, callers)
    for callers in _CALLERS:
        await writes(f"{kind} | %s | {len(known):,} | {callers}", things, known, callers)
    await keys(kind, database)


async def reads(label: str, things: Collection, known: list[Document], callers: int) -> None:
    async def get() -> None:
        assert await things.get(any_of(known)["_id"])

    async def find() -> None:
        assert await things.find(_BY_NAME, {"name": any_of(known)["name"]})

    async def page() -> None:
        assert await things.find(_BY_OWNER, {"owner": "owner-1"}, descending=True, limit=50)

    await measure(label % "get by id", get, callers=callers, calls=_CALLS)
    await measure(label % "find by a unique index", find, callers=callers, calls=_CALLS)
    await measure(label % "newest 50 of an owner with half of all", page, callers=callers, calls=_CALLS // 4)


async def writes(label: str, things: Collection, known: list[Document], callers: int) -> None:
    async def change() -> None:
        # Each caller has a document of its own, so nobody has to try again.
        mine = known.pop()
        known.insert(0, await things.replace({**mine, "state": "running"}))

    shared = await things.insert(document())

    async def contend() -> None:
        while True:
            seen = await things.get(shared["_id"])
            assert seen is not None
            try:
                await things.replace(seen)
            except VersionConflict:
                continue
            return

    await measure(label % "insert", lambda: insert(things, known), callers=callers, calls=_CALLS)
    await measure(label % "compare and set", change, callers=callers, calls=_CALLS)
    await measure(label % "read, compare and set one document", contend, callers=callers, calls=_CALLS // 8)


async def insert(things: Collection, known: list[Document]) -> None:
    known.append(await things.insert(document()))


async def keys(kind: str, database: Database) -> None:
    collection = await database.collection(KEYS)
    made = await KeyStore(collection).create(org_id="org", created_by="user", name="bench")

    async def fresh() -> None:
        assert await KeyStore(collection).verify(made.plain)

    store = KeyStore(collection)

    async def again() -> None:
        assert await store.verify(made.plain)

    await measure(f"{kind} | key checked, from the store | 1 | 1", fresh, callers=1, calls=2000)
    await measure(f"{kind} | key checked, seen within 5 s | 1 | 1", again, callers=1, calls=20_000)


async def measure(name: str, call: Callable[[], Awaitable[None]], *, callers: int, calls: int) -> None:
    times: list[float] = []

    async def caller() -> None:
        for _ in range(calls // callers):
            began = time.perf_counter()
            await call()
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(caller)
    report(name, times, time.perf_counter() - began)


def sync(directory: Path) -> None:
    """What the disk takes to keep 4 KiB for good: no store that keeps its word is faster for a single caller."""
    times: list[float] = []
    fd = os.open(directory / "sync", os.O_CREAT | os.O_WRONLY, 0o600)
    for _ in range(300):
        began = time.perf_counter()
        os.write(fd, bytes(4096))
        os.fdatasync(fd)
        times.append(time.perf_counter() - began)
    os.close(fd)
    report("none | write 4 KiB and sync | | 1", times, sum(times))


def report(name: str, times: list[float], seconds: float) -> None:
    cuts = quantiles(times, n=100)
    print(f"| {name} | {len(times) / seconds:,.0f} | {cuts[49] * 1000:.3f} | {cuts[98] * 1000:.3f} |")


def any_of(known: list[Document]) -> Document:
    return known[time.monotonic_ns() % len(known)]


def document() -> Document:
    document_id = new_id()
    return {
        "_id": document_id,
        # Not by the last bit: where each write takes an id for its mark, that is the same for all documents.
        "owner": f"owner-{int(document_id, 16) // 2 % 2}",
        "name": f"box-{document_id}",
        "state": "creating",
        "labels": {"team": "blue"},
        "created_ms": time.time_ns() // 1_000_000,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        anyio.run(main, Path(directory))
