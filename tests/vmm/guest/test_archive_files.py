"""Archives inside of a guest, over the link."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from tests.vmm.agent.trees import MIB, grow, look
from tests.vmm.guest.agents import Agent
from tests.waiting import until
from vmm.agent.archive_limits import MAX_AT_ONCE
from vmm.errors import GuestFileMissing, GuestFileRefused, InvalidInput
from vmm.guest.link import GuestLink
from vmm.guest.values import ARCHIVE_SUFFIXES, ArchiveForm

pytestmark = pytest.mark.anyio


def at_work(place: str) -> list[str]:
    """The files and directories that the agent works in."""
    return [path.name for path in Path(place).rglob(".casemate-*")]


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.bz2"])
async def test_a_tree_is_the_same_after_packing_and_unpacking(link: GuestLink, place: str, form: ArchiveForm) -> None:
    tree = Path(place, "tree")
    tree.mkdir()
    grow(tree)
    made = await link.compress(str(tree), form)
    assert (made.archive, made.archive_size) == (f"{tree}.{form}", Path(made.archive).stat().st_size)
    assert await link.extract(made.archive, f"{place}/back") == made.report
    assert look(Path(place, "back", "tree")) == look(tree)


async def test_refusals_have_their_kind(link: GuestLink, place: str) -> None:
    with pytest.raises(GuestFileMissing):
        await link.compress(f"{place}/none", "tar")
    with pytest.raises(GuestFileMissing):
        await link.extract(f"{place}/none.tar", place)
    Path(place, "bad.zip").write_bytes(b"no archive")
    with pytest.raises(GuestFileRefused, match="not a valid zip archive, or a truncated one: it has no end record"):
        await link.extract(f"{place}/bad.zip", place)
    for call in (link.compress("relative", "tar"), link.compress("/", "tar"), link.extract("x.zip", "/")):
        with pytest.raises(InvalidInput):
            await call
    with pytest.raises(InvalidInput, match=r"must end in one of \.tar"):
        await link.extract(f"{place}/x.rar", place)


async def test_the_hosts_suffixes_are_those_of_the_agent(link: GuestLink, place: str) -> None:
    for suffix in ARCHIVE_SUFFIXES:
        Path(place, f"x{suffix}").touch()
        with pytest.raises(GuestFileRefused):
            await link.extract(f"{place}/x{suffix}", place)


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
async def test_a_call_that_is_cancelled_leaves_nothing(link: GuestLink, place: str, form: ArchiveForm) -> None:
    Path(place, "tree").mkdir()
    with Path(place, "tree", "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 300 * MIB)
    before = sorted(Path(place).iterdir())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.compress, f"{place}/tree", form)
        await until(lambda: at_work(place))
        tasks.cancel_scope.cancel()
    await until(lambda: not at_work(place))
    assert sorted(Path(place).iterdir()) == before
    made = await link.compress(f"{place}/tree", form)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.extract, made.archive, f"{place}/new/back")
        await until(lambda: Path(place, "new").exists())
        tasks.cancel_scope.cancel()
    await until(lambda: not Path(place, "new").exists())


async def test_more_calls_than_run_at_once_wait_for_their_turn(link: GuestLink, place: str) -> None:
    count = 2 * MAX_AT_ONCE + 1
    for number in range(count):
        Path(place, str(number)).write_bytes(os.urandom(4 * MIB))
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(link.compress, f"{place}/{number}", "tar.bz2")
    assert len(list(Path(place).glob("*.tar.bz2"))) == count


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "zip"])
async def test_large_trees_need_little_memory(guest: Agent, link: GuestLink, place: str, form: ArchiveForm) -> None:
    top = Path(place, "tree")
    for number in range(50):
        (top / str(number)).mkdir(parents=True)
        for name in range(20):
            (top / str(number) / str(name)).write_bytes(os.urandom(500))
    (top / "large").write_bytes(os.urandom(MIB) * 30)
    before = guest.resident()
    made = await link.compress(str(top), form)
    await link.extract(made.archive, f"{place}/back")
    assert made.report.files == 1001
    assert guest.resident() - before < 16 * MIB
