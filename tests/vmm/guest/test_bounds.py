"""Memory that must stay small however much data is transferred."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import anyio
import pytest

from tests.vmm.guest.agents import Agent, agent, resident
from tests.waiting import PATIENCE_S, until
from vmm.guest.link import GuestLink
from vmm.guest.values import MIB, Command

pytestmark = [pytest.mark.anyio]
ALLOWED = 20 * MIB


@pytest.fixture
def guest(tmp_path: Path) -> Generator[Agent]:
    """A separate agent, whose memory contains nothing from other tests."""
    with agent(tmp_path) as running:
        yield running


async def test_a_gigabyte_of_output_grows_the_memory_of_neither_end(guest: Agent, link: GuestLink) -> None:
    await link.exec(Command(argv=("true",)), wait_ms=10_000)
    before, mine = guest.resident(), resident(os.getpid())
    outcome = await link.exec(Command(shell="yes | head -c 1000000000"), wait_ms=120_000)
    assert outcome.stdout.total == 1_000_000_000
    assert guest.resident() - before < ALLOWED
    assert resident(os.getpid()) - mine < ALLOWED


async def test_following_a_flood_of_output_grows_neither_end_and_skips_dropped_bytes(
    guest: Agent, link: GuestLink
) -> None:
    await link.ping()
    before, mine = guest.resident(), resident(os.getpid())
    info = await link.start(Command(shell="yes | head -c 300000000"))
    end = 0
    async with link.attach(info.pid) as chunks:
        async for chunk in chunks:
            assert chunk.offset >= end
            end = chunk.offset + len(chunk.data)
    assert end == 300_000_000
    assert guest.resident() - before < ALLOWED
    assert resident(os.getpid()) - mine < ALLOWED


async def test_the_output_of_a_hundred_finished_floods_is_dropped(guest: Agent, link: GuestLink) -> None:
    await link.ping()
    before = guest.resident()
    for _ in range(40):
        await link.exec(Command(shell="yes | head -c 2000000"), wait_ms=60_000)
    first, *_, last = await link.processes()
    assert first.stdout_total == last.stdout_total == 2_000_000
    assert (await link.read_output(first.pid)).stdout.data == b""
    assert (await link.read_output(last.pid)).stdout.data != b""
    assert guest.resident() - before < 30 * MIB


async def test_a_file_of_any_size_grows_the_memory_of_neither_end(guest: Agent, link: GuestLink, place: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(MIB)

    await link.write_file(f"{place}/warm", bytes(MIB))
    before, mine = guest.resident(), resident(os.getpid())
    await link.write_stream(f"{place}/file", chunks())
    async with link.open_read(f"{place}/file") as (info, pieces):
        assert info.size == 100 * MIB
        assert sum([len(piece) async for piece in pieces]) == info.size
    assert guest.resident() - before < ALLOWED
    assert resident(os.getpid()) - mine < ALLOWED


async def test_a_reader_that_stops_blocks_its_file_and_not_the_agent(guest: Agent, link: GuestLink, place: str) -> None:
    with Path(place, "file").open("wb") as file:
        file.truncate(1000 * MIB)
    before = guest.resident()
    async with link.open_read(f"{place}/file") as (_, pieces):
        async for _ in pieces:
            await anyio.sleep(0.5)
            break
        assert (await link.stat(f"{place}/file")).size == 1000 * MIB
        assert guest.resident() - before < ALLOWED


async def test_a_long_command_never_blocks_a_file_call(link: GuestLink) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: link.exec(Command(shell="yes"), wait_ms=1000 * PATIENCE_S))
        await until(lambda: written(link))
        for _ in range(20):
            await link.stat("/etc/passwd")
        assert (await link.processes())[-1].running
        tasks.cancel_scope.cancel()


async def written(link: GuestLink) -> bool:
    processes = await link.processes()
    return bool(processes) and processes[-1].stdout_total > 0
