"""Many who edit one document at once, on both stores."""

from __future__ import annotations

import anyio
import pytest

from auth.edit import edit
from storage.collection import CollectionSpec, Database, Document

pytestmark = pytest.mark.anyio

RIVALS = 200
EACH = 4
THINGS = CollectionSpec(name="things")


async def test_each_of_many_rivals_gets_through(database: Database) -> None:
    things = await database.collection(THINGS)
    await things.insert({"_id": "a", "count": 0})

    def counted(document: Document) -> Document:
        return {**document, "count": document["count"] + 1}

    async def count_up() -> None:
        for _ in range(EACH):
            assert await edit(things, "a", counted) is not None

    async with anyio.create_task_group() as tasks:
        for _ in range(RIVALS):
            tasks.start_soon(count_up)
    assert await things.get("a") == {"_id": "a", "count": RIVALS * EACH, "version": RIVALS * EACH + 1}
