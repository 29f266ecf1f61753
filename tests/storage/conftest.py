"""One database of each adapter: what the contract says, every one of them must do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from storage.collection import Collection, CollectionSpec, Database, Index
from storage.sqlite import SqliteDatabase

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_RANK = Index(name="by_rank", fields=("owner", "rank"))
BY_EMAIL = Index(name="by_email", fields=("email",), unique=True, sparse=True)
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER, BY_RANK, BY_EMAIL))


@pytest.fixture(params=["sqlite"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    adapters = {"sqlite": lambda: SqliteDatabase(tmp_path / "store.db")}
    async with adapters[request.param]() as database:
        yield database


@pytest.fixture
async def things(database: Database) -> Collection:
    return await database.collection(THINGS)
