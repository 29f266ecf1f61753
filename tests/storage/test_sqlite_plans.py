"""No query scans: SQLite itself says how it would find the documents."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import sqlite3
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from storage.collection import CollectionSpec, Index, Value
from storage.ids import new_id
from storage.query import plan
from storage.sqlite import SqliteDatabase
from storage.sqlite_collection import select

pytestmark = pytest.mark.anyio

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_RANK = Index(name="by_rank", fields=("owner", "rank"))
BY_EMAIL = Index(name="by_email", fields=("email",), unique=True)
BY_NICK = Index(name="by_nick", fields=("nick",), unique=True, sparse=True)
BY_TEAM = Index(name="by_team", fields=("team",), sparse=True)
BY_VERSION = Index(name="by_version", fields=("version", "_id"))
SPEC = CollectionSpec(name="things", indexes=(BY_OWNER, BY_RANK, BY_EMAIL, BY_NICK, BY_TEAM, BY_VERSION))
VALUES: dict[str, Value] = {"owner": "a", "rank": 1, "email": "e", "nick": "n", "team": "t", "version": 1, "_id": "i"}
COLUMNS = {"_id": "id", "version": "version"}


def cases() -> list[tuple[Index, int, str, bool]]:
    every = product(SPEC.indexes, range(4), ("", "after", "low", "high", "range", "after range"), (False, True))
    return [
        (index, count, bounds, descending)
        for index, count, bounds, descending in every
        if count <= len(index.order) and (not bounds or count < len(index.order))
    ]


@pytest.mark.parametrize(("index", "count", "bounds", "descending"), cases())
async def test_every_query_walks_its_index_and_sorts_nothing(
    tmp_path: Path, index: Index, count: int, bounds: str, descending: bool
) -> None:
    query = plan(
        SPEC,
        index,
        {field: VALUES[field] for field in index.order[:count]},
        after=VALUES if "after" in bounds else None,
        low=VALUES[index.order[count]] if bounds in {"low", "range", "after range"} else None,
        high=VALUES[index.order[count]] if bounds in {"high", "range", "after range"} else None,
        descending=descending,
        limit=10,
    )
    sql, values = select(SPEC, query, "body")
    steps = await explained(tmp_path, sql, values)
    assert len(steps) == 1, "a second step would be a sort"
    step = steps[0]
    assert step.startswith("SEARCH things USING INDEX" if count or bounds else "SCAN things USING INDEX"), step
    columns = [COLUMNS.get(field, "<expr>") for field in index.order]
    assert all(f"{column}=?" in step for column in columns[:count]), step
    if bounds in {"low", "range"} or (bounds == "after" and not descending):
        assert f"{columns[count]}>?" in step or f"({','.join(columns[count:])})>" in step, step
    if bounds in {"high", "range"} or (bounds == "after" and descending):
        assert f"{columns[count]}<?" in step or f"({','.join(columns[count:])})<" in step, step


async def test_look_ups_by_id_use_the_key(tmp_path: Path) -> None:
    steps = await explained(tmp_path, 'SELECT body FROM "things" WHERE id = ?', ("x",))
    assert steps == ["SEARCH things USING INDEX sqlite_autoindex_things_1 (id=?)"]


async def explained(tmp_path: Path, sql: str, values: tuple[Any, ...]) -> list[str]:
    async with SqliteDatabase(tmp_path / "store.db") as database:
        things = await database.collection(SPEC)
        await things.insert({**VALUES, "_id": new_id()})

        def explain(connection: sqlite3.Connection) -> list[str]:
            return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]

        return await database._read(explain)
