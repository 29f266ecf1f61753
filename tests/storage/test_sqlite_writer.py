"""The thread that writes: who waits for it, and for how long."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncGenerator

import anyio
import pytest

from storage.errors import StoreError, StoreUnavailable
from storage.sqlite_writer import SqliteWriter
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
async def writer() -> AsyncGenerator[SqliteWriter]:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    writer = SqliteWriter(connection, lambda error: StoreError(str(error)))
    yield writer
    await writer.aclose()


async def test_many_writes_on_a_slow_disk_wait_for_their_turn(writer: SqliteWriter) -> None:
    done: list[int] = []

    async def write(number: int) -> None:
        # All of them take longer than one is waited for, and each a tenth of that.
        done.append(await writer.run(lambda _connection: time.sleep(0.1) or number, within=1.0))

    async with anyio.create_task_group() as tasks:
        for number in range(25):
            tasks.start_soon(write, number)
    assert done == list(range(25))


async def test_a_disk_that_hangs_is_given_up_and_what_was_not_begun_is_never_done(writer: SqliteWriter) -> None:
    begun, hangs = threading.Event(), threading.Event()
    done: list[str] = []

    def first(_connection: sqlite3.Connection) -> None:
        begun.set()
        hangs.wait(PATIENCE_S)
        done.append("first")

    async def given_up(number: int) -> None:
        with pytest.raises(StoreUnavailable, match="did not finish within"):
            await writer.run(first if number == 0 else lambda _connection: done.append("second"), within=0.5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(given_up, 0)
        await anyio.to_thread.run_sync(begun.wait)
        tasks.start_soon(given_up, 1)
    hangs.set()
    await writer.run(lambda _connection: done.append("third"))
    assert done == ["first", "third"]
