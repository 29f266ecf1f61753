"""A server killed at every step of what it does: the next one finds nothing half done, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from bench.fleet import OWNER
from tests.crash.rig import Rig, is_whole, works
from tests.crash.server import Fate, Nursery
from vmm.fleet import Fleet
from vmm.hypervisor.process import strays
from vmm.images.catalogue import Catalogue

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery.open() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory of templates for all these hosts."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def rig(nursery: Nursery, templates: Path, tmp_path: Path, catalogue: Catalogue, image_root: Path) -> Iterator[Rig]:
    assert "minimal" in catalogue.names()
    data = tmp_path / "data"
    data.mkdir()
    (data / "templates").symlink_to(templates)
    yield Rig(nursery, data, image_root)
    for processes in strays(data).values():
        for process in processes:
            anyio.run(process.kill)


async def test_a_sandbox_that_was_being_made_is_there_or_not(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        made = (await fleet.list(OWNER)).items
        assert len(made) == 1 if fate.survived else len(made) <= 1
        for sandbox in made:
            await works(fleet, sandbox)
            await fleet.delete(OWNER, sandbox.id)

    assert await rig.kill_at_each_step("create", look) > 5


async def test_a_sandbox_that_was_being_deleted_is_gone_or_whole(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        left = (await fleet.list(OWNER)).items
        assert not (left and fate.survived)
        for sandbox in left:
            await is_whole(fleet, sandbox)

    assert await rig.kill_at_each_step("delete", look, sandbox=rig.box) > 3
