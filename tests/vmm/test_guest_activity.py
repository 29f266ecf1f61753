"""What a real guest says of what goes on in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.fleet import Fleet
from vmm.guest.link import GuestLink
from vmm.guest.values import Command, GuestActivity
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
SERVE = """
use IO::Socket::INET;
my $door = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 8000, Listen => 5, ReuseAddr => 1) or die;
my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 8000) or die;
my $served = $door->accept();
sleep 1000;
"""


@pytest.fixture
async def link(fleet: Fleet) -> AsyncGenerator[GuestLink]:
    await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", image="minimal", mem=256))
    async with fleet.guest.reach(ALICE, "box") as (_, link):
        yield link


async def until(link: GuestLink, wanted: GuestActivity) -> None:
    with anyio.fail_after(PATIENCE_S):
        while await link.activity() != wanted:
            await anyio.sleep(0.1)


AT_REST = GuestActivity(processes=0, terminals=0, connections=0)


async def test_a_fresh_guest_is_idle_although_the_host_is_connected(link: GuestLink) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(link.ping)
    assert await link.activity() == AT_REST
    assert AT_REST.idle


async def test_daemons_terminals_and_connections_count_until_they_end(link: GuestLink) -> None:
    started = await link.exec(Command(shell="setsid sleep 1000 >/dev/null 2>&1 & echo $!"), wait_ms=10_000)
    await until(link, GuestActivity(processes=1, terminals=0, connections=0))
    terminal = await link.terminal_open(command="exec sleep 1000")
    await until(link, GuestActivity(processes=2, terminals=1, connections=0))
    server = await link.start(Command(argv=("perl", "-e", SERVE)))
    await until(link, GuestActivity(processes=3, terminals=1, connections=1))
    await link.signal(server.pid, 9)
    await link.terminal_close(terminal.terminal_id)
    await link.exec(Command(shell=f"kill {started.stdout.data().decode()}"), wait_ms=10_000)
    await until(link, AT_REST)
