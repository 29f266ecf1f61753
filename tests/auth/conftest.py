"""A real store in a file, and accounts and keys on it, with clocks that the tests turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from auth.accounts import Accounts
from auth.changes import Changes
from auth.keys import KEYS, KeyStore
from storage.collection import Collection, Database
from storage.mongo import MongoDatabase
from storage.sqlite import SqliteDatabase
from tests.auth.clocks import Clocks
from tests.auth.rig import Rig, open_rig


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture(params=["sqlite", "mongo"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each store in turn: what accounts and keys promise holds on both."""
    makers: dict[str, Callable[[], Database]] = {
        "sqlite": lambda: SqliteDatabase(tmp_path / "store" / "casemate.db"),
        "mongo": lambda: MongoDatabase(request.getfixturevalue("mongo_uri"), request.getfixturevalue("mongo_name")),
    }
    async with makers[request.param]() as opened:
        yield opened


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
async def accounts(database: Database, clocks: Clocks, changes: Changes) -> Accounts:
    return await Accounts.open(database, changes=changes, clock=clocks.epoch)


@pytest.fixture
async def key_documents(database: Database) -> Collection:
    return await database.collection(KEYS)


@pytest.fixture
def keys(key_documents: Collection, clocks: Clocks, changes: Changes) -> KeyStore:
    return KeyStore(key_documents, changes=changes, clock=clocks.epoch, monotonic=clocks.monotonic)


@pytest.fixture
async def rig(database: Database, clocks: Clocks) -> Rig:
    return await open_rig(database, clocks)
