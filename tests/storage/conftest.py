"""One database of each adapter: what the contract says, every one of them must do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest
from pymongo.monitoring import register

from storage.collection import Collection, Database
from storage.mongo import MongoDatabase
from storage.sqlite import SqliteDatabase
from tests.mongo_server.recorder import Recorder
from tests.storage.things import THINGS


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    """Hears every command of every driver that is made from now on."""
    recorder = Recorder()
    register(recorder)
    return recorder


@pytest.fixture
def mongo(recorder: Recorder, mongo_uri: str, mongo_name: str) -> Iterator[MongoDatabase]:
    """A database on MongoDB, not yet open. Whatever the test asks of the server must be on the list."""
    recorder.strange.clear()  # what the tests of credentials ask is none of this test's
    yield MongoDatabase(mongo_uri, mongo_name)
    assert recorder.strange == set()


@pytest.fixture(params=["sqlite", "mongo"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    adapters: dict[str, Callable[[], Database]] = {
        "sqlite": lambda: SqliteDatabase(tmp_path / "store.db"),
        "mongo": lambda: request.getfixturevalue("mongo"),
    }
    async with adapters[request.param]() as database:
        yield database


@pytest.fixture
async def things(database: Database) -> Collection:
    return await database.collection(THINGS)
