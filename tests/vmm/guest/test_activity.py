"""The activity that an agent reports; it sees only its own processes, as in a guest."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from tests.vmm.guest.agents import agent, can_be_alone
from tests.waiting import PATIENCE_S
from vmm.guest.link import GuestLink
from vmm.guest.values import Command

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not can_be_alone(), reason="needs unshare, and the right to a namespace of processes"),
]


@pytest.fixture
async def link(tmp_path: Path) -> AsyncGenerator[GuestLink]:
    with agent(tmp_path, "--cgroup", "none", alone=True) as running:
        link = running.link()
        yield link
        await link.aclose()


async def counted(link: GuestLink, processes: int, terminals: int) -> None:
    """Wait until the agent counts so many; ended processes are reaped a moment later."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            activity = await link.activity()
            if (activity.processes, activity.terminals) == (processes, terminals):
                return
            await anyio.sleep(0.02)


async def test_an_idle_agent_reports_nothing_even_after_commands(link: GuestLink) -> None:
    activity = await link.activity()
    assert (activity.processes, activity.terminals) == (0, 0)
    await link.exec(Command(shell="true | cat"), wait_ms=10_000)
    await counted(link, 0, 0)


async def test_a_command_in_the_background_counts_until_it_ends(link: GuestLink) -> None:
    info = await link.start(Command(argv=("sleep", "60")))
    assert (await link.activity()).processes == 1
    assert not (await link.activity()).idle
    await link.signal(info.pid, 9)
    await counted(link, 0, 0)


async def test_a_daemon_that_left_its_command_counts(link: GuestLink) -> None:
    line = "(setsid sh -c 'echo $$; exec sleep 60' 2>/dev/null &)"
    outcome = await link.exec(Command(shell=line), wait_ms=10_000)
    assert not outcome.running
    await counted(link, 1, 0)
    await link.exec(Command(argv=("kill", outcome.stdout.data().decode().strip())), wait_ms=10_000)
    # Nobody reaps it here, where the agent is the first process; still, it has ended.
    await counted(link, 0, 0)


async def test_a_terminal_counts_until_its_program_ends(link: GuestLink) -> None:
    terminal = await link.terminal_open(command="read line")
    await counted(link, 1, 1)
    await link.terminal_input(terminal.terminal_id, b"\n")
    await counted(link, 0, 0)
    assert [info.alive for info in await link.terminals()] == [False]


async def test_a_session_counts_while_a_command_runs_in_it(link: GuestLink) -> None:
    await link.session_open("one")
    await counted(link, 0, 0)
    number = await link.session_start("one", "read line", timeout_ms=0)
    await counted(link, 1, 0)
    await link.session_input("one", b"\n")
    assert not (await link.session_wait("one", number, wait_ms=60_000)).state.running
    await counted(link, 0, 0)
    await link.session_start("one", "sleep 60 &", timeout_ms=0)
    await counted(link, 1, 0)


async def test_measuring_activity_does_not_count_as_a_process(link: GuestLink) -> None:
    for _ in range(20):
        activity = await link.activity()
        assert (activity.processes, activity.terminals) == (0, 0)
