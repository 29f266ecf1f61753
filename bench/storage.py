"""The store alone: one caller and fifty, against the disk's own sync: `python -m bench.storage [DIRECTORY]`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import quantiles

import anyio

from auth.keys import KEYS, KeyStore
from storage.collection import CollectionSpec, Document, Index
from storage.errors import VersionConflict
from storage.ids import new_id
from storage.sqlite import SqliteDatabase

_BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
_THINGS = CollectionSpec(name="things", indexes=(_BY_OWNER,))
_STORED = 20_000
_CALLERS = 50


async def main(directory: Path) -> None:
    print("| what | calls/s | p50 ms | p99 ms |\n|---|---|---|---|")
    sync(directory)
    async with SqliteDatabase(directory / "store.db") as database:
        things = await database.collection(_THINGS)
        known: list[Document] = []

        async def insert() -> None:
            known.append(await things.insert(document(len(known))))

        async def get() -> None:
            await things.get(known[time.monotonic_ns() % len(known)]["_id"])

        async def page() -> None:
            await things.find(_BY_OWNER, {"owner": "owner-7"}, descending=True, limit=20)

        async def change() -> None:
            # Each caller has a document of its own, so nobody has to try again.
            mine = known.pop()
            known.insert(0, await things.replace({**mine, "state": "running"}))

        shared = await things.insert(document(0))

        async def contend() -> None:
            while True:
                seen = await things.get(shared["_id"])
                assert seen is not None
                try:
                    await things.replace(seen)
                except VersionConflict:
                    continue
                return

        await measure("insert, one caller", insert, callers=1, calls=500)
        await measure(f"insert, {_CALLERS} callers", insert, callers=_CALLERS, calls=_STORED)
        await measure(f"get of {_STORED}, one caller", get, callers=1, calls=3000)
        await measure(f"get of {_STORED}, {_CALLERS} callers", get, callers=_CALLERS, calls=10_000)
        await measure(f"newest 20 of an owner of {_STORED}, one caller", page, callers=1, calls=2000)
        await measure("replace, one caller", change, callers=1, calls=500)
        await measure(f"replace, {_CALLERS} callers", change, callers=_CALLERS, calls=5000)
        await measure(f"read and replace one document, {_CALLERS} callers", contend, callers=_CALLERS, calls=1000)
        await keys(database)


async def keys(database: SqliteDatabase) -> None:
    collection = await database.collection(KEYS)
    made = await KeyStore(collection).create(org_id="org", created_by="user", name="bench")

    async def fresh() -> None:
        assert await KeyStore(collection).verify(made.plain)

    store = KeyStore(collection)

    async def again() -> None:
        assert await store.verify(made.plain)

    await measure("key checked, from the store", fresh, callers=1, calls=2000)
    await measure("key checked, seen within 5 s", again, callers=1, calls=20_000)


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
    report("write 4 KiB and sync, without a store", times, sum(times))


def report(name: str, times: list[float], seconds: float) -> None:
    cuts = quantiles(times, n=100)
    print(f"| {name} | {len(times) / seconds:,.0f} | {cuts[49] * 1000:.3f} | {cuts[98] * 1000:.3f} |")


def document(number: int) -> Document:
    return {
        "_id": new_id(),
        "owner": f"owner-{number % 100}",
        "name": f"box-{number}",
        "state": "creating",
        "labels": {"team": "blue"},
        "created_ms": 1_700_000_000_000 + number,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        anyio.run(main, Path(directory))
