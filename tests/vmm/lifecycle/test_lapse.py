"""Which sandboxes lapse: by their labels, their last use and their age, whoever owns them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.vmm import still
from vmm.hypervisor.detect import Choice
from vmm.sandboxes.sandbox import Sandbox, State

pytestmark = pytest.mark.anyio

LABELS = {"for": "tests"}
OWNERS = ("a" * 24, "b" * 24)
NOW_MS = 1_000_000


async def left(there: still.Still) -> set[str]:
    return {one.id for owner in OWNERS for one in (await there.fleet.sandboxes.list(owner)).items}


async def kept(
    there: still.Still,
    owner: str = OWNERS[0],
    *,
    used: int = 0,
    created: int = 1,
    labels: Mapping[str, str] = LABELS,
) -> Sandbox:
    """A sandbox without a machine, last used and created at these seconds."""
    return await still.kept(
        there.collection, State.KILLED, owner, labels=labels, active_ms=used * 1000, created_ms=created * 1000
    )


async def test_what_nobody_used_for_so_long_is_deleted_whoever_owns_it(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, clock=lambda: NOW_MS) as there:
        for owner in OWNERS:
            await kept(there, owner, used=900)
        used = await kept(there, used=901)
        assert await there.fleet.sandboxes.delete_lapsed(LABELS, unused_s=100) == 2
        assert await left(there) == {used.id}


async def test_other_labels_and_no_limit_delete_nothing(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, clock=lambda: NOW_MS) as there:
        other = await kept(there, labels={"for": "work"})
        old = await kept(there)
        assert await there.fleet.sandboxes.delete_lapsed(LABELS | {"and": "more"}, unused_s=1) == 0
        assert await there.fleet.sandboxes.delete_lapsed(LABELS, unused_s=0) == 0
        assert await left(there) == {other.id, old.id}


async def test_what_is_too_old_is_deleted_however_much_it_is_used(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, clock=lambda: NOW_MS) as there:
        old = await kept(there, used=1000, created=800)
        young = await kept(there, used=1000, created=801)
        async with there.inner("guest._access._activity").use(old.id):
            assert await there.fleet.sandboxes.delete_lapsed(LABELS, unused_s=100, age_s=200) == 1
        assert await left(there) == {young.id}


async def test_what_is_in_use_does_not_lapse(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver, clock=lambda: NOW_MS) as there:
        sandbox = await kept(there)
        activity = there.inner("guest._access._activity")
        async with activity.use(sandbox.id):
            assert await there.fleet.sandboxes.delete_lapsed(LABELS, unused_s=100) == 0
        assert await there.fleet.sandboxes.delete_lapsed(LABELS, unused_s=100) == 0, "it was used just now"
        assert await left(there) == {sandbox.id}
