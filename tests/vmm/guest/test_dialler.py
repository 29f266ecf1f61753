"""Concurrent calls over a network that loses connections: none is lost, runs twice, or waits forever."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from tests.vmm.guest.agents import Agent
from tests.vmm.guest.relays import Fate, Relay, relay
from tests.waiting import PATIENCE_S
from vmm.errors import GuestFileMissing, LinkError, LinkTimeout
from vmm.guest import dialler
from vmm.guest.link import GuestLink
from vmm.guest.values import Command

pytestmark = pytest.mark.anyio

_AT_ONCE = 40


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable parallel dials, so that a slow host does not change the number of dials."""
    monkeypatch.setattr(dialler, "_PARALLEL_S", 3600.0)


def only_the_first(number: int) -> Fate:
    return Fate.LOST if number else Fate.PASSED


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not holds():
            await anyio.sleep(0.005)


@asynccontextmanager
async def linked(between: Relay) -> AsyncGenerator[GuestLink]:
    link = between.link()
    yield link
    await link.aclose()


async def run_at_once(link: GuestLink, file: Path, count: int) -> list[str]:
    """Run that many commands at once, each of which writes its number; return these, sorted."""

    async def run(number: int) -> None:
        outcome = await link.exec(Command(shell=f"echo {number} >> {file}"), wait_ms=60_000)
        assert outcome.exit_code == 0, outcome

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(run, number)
    return sorted(file.read_text().split(), key=int)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.HUNG_UP])
async def test_every_call_runs_once_if_every_other_connection_is_lost(guest: Agent, tmp_path: Path, fate: Fate) -> None:
    async with relay(guest, lambda number: Fate.PASSED if number % 2 else fate) as between, linked(between) as link:
        ran = await run_at_once(link, tmp_path / "ran", _AT_ONCE)
        assert ran == [str(number) for number in range(_AT_ONCE)]
        assert between.seen >= 2
        assert between.lost_bytes == 0


async def test_a_slow_connection_is_used(guest: Agent) -> None:
    async with relay(guest, only_the_first) as between, linked(between) as link:
        between.open = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.ping)
            await until(lambda: between.seen >= 2)
            between.open.set()


@pytest.mark.usefixtures("patient")
async def test_two_calls_dial_at_once_and_the_others_queue(guest: Agent, tmp_path: Path) -> None:
    async with relay(guest) as between, linked(between) as link:
        ran = await run_at_once(link, tmp_path / "ran", _AT_ONCE)
        assert len(ran) == _AT_ONCE
        assert between.most == 2


@pytest.mark.usefixtures("patient")
async def test_a_call_takes_a_returned_connection_if_no_dial_is_answered(guest: Agent, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with relay(guest, only_the_first) as between, linked(between) as link, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(link.exec, Command(shell=f"cat {pipe}"), wait_ms=60_000))
        await until(lambda: between.seen == 1)
        ended = 0

        async def ping() -> None:
            nonlocal ended
            await link.ping(timeout_ms=60_000)
            ended += 1

        for _ in range(5):
            tasks.start_soon(ping)
        await until(lambda: between.seen == 3)
        await anyio.to_thread.run_sync(pipe.write_text, "go on")
        await until(lambda: ended == 5)
        assert between.seen == 3


@pytest.mark.usefixtures("patient")
async def test_cancelled_calls_leave_their_turn_to_the_next(guest: Agent) -> None:
    given_up = anyio.CancelScope()

    async def crowd(link: GuestLink) -> None:
        with given_up:
            async with anyio.create_task_group() as tasks:
                for _ in range(_AT_ONCE):
                    tasks.start_soon(link.ping)

    async with relay(guest) as between, linked(between) as link, anyio.create_task_group() as tasks:
        between.open = anyio.Event()
        tasks.start_soon(crowd, link)
        await until(lambda: between.seen == 2)
        tasks.start_soon(partial(link.ping, timeout_ms=60_000))
        await anyio.wait_all_tasks_blocked()
        given_up.cancel()
        await until(lambda: between.seen == 3)
        between.open.set()


@pytest.mark.usefixtures("patient")
async def test_a_refused_call_leaves_its_connection_usable_for_the_next(guest: Agent) -> None:
    async with relay(guest) as between, linked(between) as link:

        async def refused() -> None:
            with pytest.raises(GuestFileMissing):
                await link.stat("/no/such")

        with anyio.fail_after(60):
            for _ in range(5):
                await link.drop_connections()
                async with anyio.create_task_group() as tasks:
                    for number in range(_AT_ONCE):
                        tasks.start_soon(refused if number % 2 else link.ping)
        assert between.seen < 5 * _AT_ONCE


@pytest.mark.usefixtures("patient")
async def test_all_waiting_calls_give_up_on_a_silent_agent(
    guest: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialler, "_SILENT_S", 0.2)
    monkeypatch.setattr(dialler, "_PARALLEL_S", PATIENCE_S)  # no second dial, however late the silence is noticed
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with relay(guest, only_the_first) as between, linked(between) as link, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(link.exec, Command(shell=f"cat {pipe}"), wait_ms=60_000))
        await until(lambda: between.seen == 1)

        async def told_nothing() -> None:
            with pytest.raises(LinkTimeout, match=r"has not answered for .*; the request was not sent"):
                await link.ping(timeout_ms=60_000)

        async with anyio.create_task_group() as callers:
            for _ in range(10):
                callers.start_soon(told_nothing)
        assert between.seen == 3
        assert between.lost_bytes == 0
        await anyio.to_thread.run_sync(pipe.write_text, "go on")


async def test_a_closed_link_lets_no_call_wait(guest: Agent) -> None:
    async with relay(guest) as between, anyio.create_task_group() as tasks:
        between.open = anyio.Event()
        link = between.link()
        errors: list[LinkError] = []

        async def ping() -> None:
            with pytest.raises(LinkError) as caught:
                await link.ping(timeout_ms=60_000)
            errors.append(caught.value)

        for _ in range(5):
            tasks.start_soon(ping)
        await until(lambda: between.seen == 2)
        await link.aclose()
        await until(lambda: len(errors) >= 3)
        assert {error.message for error in errors} == {"The link to the guest is closed"}
        tasks.cancel_scope.cancel()
