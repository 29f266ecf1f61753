from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from storage.sqlite import SqliteDatabase
from vmm.errors import InvalidInput, Unavailable
from vmm.sandboxes.limits import OwnerLimits
from vmm.sandboxes.quotas import QUOTAS, Quotas

pytestmark = pytest.mark.anyio

RIVALS = 60
DEFAULTS = OwnerLimits(sandboxes=5, cpus=10, mem=4096, disk=51200)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[SqliteDatabase]:
    async with SqliteDatabase(tmp_path / "casemate.db") as database:
        yield database


@pytest.fixture
async def quotas(database: SqliteDatabase) -> Quotas:
    return Quotas(DEFAULTS, await database.collection(QUOTAS))


async def test_an_owner_without_a_quota_has_the_defaults(quotas: Quotas) -> None:
    assert await quotas.of("alice") == DEFAULTS
    assert await quotas.own("alice") == {}


async def test_a_quota_applies_only_to_its_owner(quotas: Quotas) -> None:
    raised = await quotas.put("alice", {"sandboxes": 9, "mem": 0})
    assert raised == OwnerLimits(sandboxes=9, cpus=10, mem=0, disk=51200)
    assert await quotas.of("alice") == raised
    assert await quotas.of("bob") == DEFAULTS


async def test_null_resets_a_limit_to_the_default(quotas: Quotas) -> None:
    await quotas.put("alice", {"sandboxes": 9, "cpus": 1})
    assert await quotas.put("alice", {"sandboxes": None}) == OwnerLimits(sandboxes=5, cpus=1, mem=4096, disk=51200)
    assert await quotas.own("alice") == {"cpus": 1}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gpus": 1}, "quota must be .*, got 'gpus'"),
        ({"cpus": -1}, "cpus must be 0 to"),
        ({"mem": 2**62}, "mem must be "),
    ],
)
async def test_an_invalid_limit_is_refused_and_changes_nothing(
    quotas: Quotas, changes: dict[str, int | None], named: str
) -> None:
    with pytest.raises(InvalidInput, match=named):
        await quotas.put("alice", {"sandboxes": 1, **changes})
    assert await quotas.of("alice") == DEFAULTS


async def test_concurrent_changes_are_never_lost(quotas: Quotas) -> None:
    names = ("sandboxes", "cpus", "mem", "disk")
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(quotas.put, "alice", {name: 7})
    assert await quotas.of("alice") == OwnerLimits(sandboxes=7, cpus=7, mem=7, disk=7)


async def test_each_of_many_concurrent_changes_succeeds(quotas: Quotas) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(RIVALS):
            tasks.start_soon(quotas.put, "alice", {"sandboxes": number})
    assert (await quotas.of("alice")).sandboxes in range(RIVALS)


async def test_without_a_store_quotas_are_unavailable(quotas: Quotas, database: SqliteDatabase) -> None:
    await database.aclose()
    with pytest.raises(Unavailable):
        await quotas.of("alice")
