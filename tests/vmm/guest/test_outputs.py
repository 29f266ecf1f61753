"""Outputs of commands that are longer than the agent's memory for them: on its disk, or held back for their reader."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import anyio
import pytest

from tests.vmm.guest.agents import Agent, agent
from tests.waiting import PATIENCE_S, until
from vmm.guest.link import GuestLink
from vmm.guest.values import MIB, Command

pytestmark = pytest.mark.anyio
PATIENCE_MS = 1000 * PATIENCE_S
KEPT = 2 * MIB
"""More than the agent keeps of a stream in its memory."""


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The directory of the outputs of the agent with a disk."""
    made = tmp_path / "outputs"
    made.mkdir()
    return made


@pytest.fixture
def spooling(tmp_path: Path, outputs: Path) -> Generator[Agent]:
    """An agent with a disk for outputs."""
    with agent(tmp_path, "--outputs", str(outputs)) as running:
        yield running


@pytest.fixture
async def link(spooling: Agent) -> AsyncGenerator[GuestLink]:
    link = spooling.link()
    yield link
    await link.aclose()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncGenerator[GuestLink]:
    """A link to an agent that has memory alone for outputs."""
    (tmp_path / "small").mkdir()
    with agent(tmp_path / "small") as running:
        link = running.link()
        yield link
        await link.aclose()


def noise(place: Path, size: int) -> tuple[Command, str]:
    """A command that prints some megabytes, and their digest."""
    content = os.urandom(size)
    (place / "noise").write_bytes(content)
    return Command(argv=("cat", str(place / "noise"))), hashlib.sha256(content).hexdigest()


async def test_who_comes_late_reads_all_from_the_disk_which_lists_no_file(
    link: GuestLink, tmp_path: Path, outputs: Path
) -> None:
    command, digest = noise(tmp_path, 5_000_000)
    done = await link.exec(command, wait_ms=PATIENCE_MS)
    assert not list(outputs.iterdir())
    whole = hashlib.sha256()
    async with link.attach(done.pid) as chunks:
        async for chunk in chunks:
            whole.update(chunk.data)
    assert whole.hexdigest() == digest
    middle = await link.read_output(done.pid, stdout_offset=2_000_000, max_bytes=10)
    assert middle.stdout.offset == 2_000_000
    assert middle.stdout.data == (tmp_path / "noise").read_bytes()[2_000_000:2_000_010]


async def test_a_forgotten_output_is_removed(spooling: Agent, link: GuestLink, tmp_path: Path, outputs: Path) -> None:
    def kept() -> int:
        files = [file.readlink() for file in Path(f"/proc/{spooling.process.pid}/fd").iterdir()]
        return sum(1 for file in files if file.is_relative_to(outputs) and file != outputs)

    command, _ = noise(tmp_path, 3_000_000)
    await link.exec(command, wait_ms=PATIENCE_MS)
    assert kept() == 1
    await link.forget()
    await until(lambda: kept() == 0)


async def test_a_command_waits_for_a_reader_that_stops_and_loses_nothing(small: GuestLink, tmp_path: Path) -> None:
    command, digest = noise(tmp_path, 20_000_000)
    info = await small.start(command, hold=True)
    whole, end = hashlib.sha256(), 0
    async with small.attach(info.pid, hold=True) as chunks:
        async for chunk in chunks:
            if not end:
                written = await settled(small, info.pid)
                assert written < 20_000_000
            assert chunk.offset == end
            end += len(chunk.data)
            whole.update(chunk.data)
    assert whole.hexdigest() == digest


async def test_a_command_whose_reader_leaves_goes_on(small: GuestLink, tmp_path: Path) -> None:
    command, _ = noise(tmp_path, 20_000_000)
    info = await small.start(command, hold=True)
    async with small.attach(info.pid, hold=True) as chunks:
        async for _ in chunks:
            await settled(small, info.pid)
            break
    assert (await small.wait(info.pid, wait_ms=PATIENCE_MS)).stdout.total == 20_000_000


async def test_a_held_command_can_be_killed_and_ends_when_its_time_is_up(small: GuestLink) -> None:
    for timeout_ms in (0, 1000):
        info = await small.start(Command(shell="yes", timeout_ms=timeout_ms), hold=True)
        await settled(small, info.pid)
        if not timeout_ms:
            await small.signal(info.pid, 9)
        end = 0
        async with small.attach(info.pid, hold=True) as chunks:
            async for chunk in chunks:
                assert chunk.offset <= end or chunk.stream == "stderr"
                end = chunk.offset + len(chunk.data)
        outcome = await small.wait(info.pid, wait_ms=PATIENCE_MS)
        assert (outcome.exit_code, outcome.timed_out) == (137, bool(timeout_ms))
        assert outcome.stdout.total == end


async def test_who_only_looks_holds_nothing_back(small: GuestLink, tmp_path: Path) -> None:
    command, _ = noise(tmp_path, 20_000_000)
    info = await small.start(command)
    async with small.attach(info.pid) as chunks:
        async for _ in chunks:
            assert (await small.wait(info.pid, wait_ms=PATIENCE_MS)).stdout.total == 20_000_000
            break


async def settled(link: GuestLink, pid: int) -> int:
    """Wait until a command has written more than is kept and then writes no more; return how much it has written."""
    before = -1
    with anyio.fail_after(PATIENCE_S):
        while True:
            written = (await link.read_output(pid, stdout_offset=2**40, max_bytes=1, wait_ms=500)).info.stdout_total
            if written == before and written > MIB // 2:
                return written
            before = written
