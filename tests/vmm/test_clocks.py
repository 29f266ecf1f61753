"""What time does to sandboxes, on real machines with a clock that the test sets."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import NotFound
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
SPEC = SandboxSpec(name="box", image="minimal", mem=256)
MINUTE_MS = 60_000
SWEEP_S = 0.2
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


@dataclass
class Clock:
    """Milliseconds since the epoch, ahead of the host's by as much as a test says."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fleet(open_fleet: Opener, clock: Clock) -> AsyncGenerator[Fleet]:
    async with _opened(open_fleet, clock) as fleet:
        yield fleet


@asynccontextmanager
async def _opened(open_fleet: Opener, clock: Clock, *, keep: bool = False, **more: int) -> AsyncGenerator[Fleet]:
    async with open_fleet(clock=clock, sweep_s=SWEEP_S, **more) as fleet:
        yield fleet
        if not keep:
            for sandbox in (await fleet.sandboxes.list(ALICE)).items:
                await fleet.sandboxes.delete(ALICE, sandbox.id)


async def until(fleet: Fleet, state: State) -> None:
    with anyio.fail_after(PATIENCE_S):
        while (await fleet.sandboxes.get(ALICE, "box")).state is not state:
            await anyio.sleep(0.1)


async def stays(fleet: Fleet, state: State) -> None:
    """Look on for longer than it takes the fleet to look at all clocks."""
    with anyio.move_on_after(5 * SWEEP_S):
        while True:
            assert (await fleet.sandboxes.get(ALICE, "box")).state is state
            await anyio.sleep(0.1)


async def test_an_idle_sandbox_falls_asleep_and_any_call_wakes_it(fleet: Fleet, clock: Clock) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.guest.exec(ALICE, "box", Command(shell="echo ram > /dev/shm/nonce"), wait_ms=10_000)
    clock.ahead_ms += 4 * MINUTE_MS
    await stays(fleet, State.RUNNING)
    clock.ahead_ms += 2 * MINUTE_MS
    await until(fleet, State.ASLEEP)
    outcome = await fleet.guest.exec(ALICE, "box", Command(shell="cat /dev/shm/nonce"), wait_ms=10_000)
    assert outcome.stdout.data() == b"ram\n"


async def test_a_sandbox_with_running_programs_stays_awake(fleet: Fleet, clock: Clock) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    busy = await fleet.guest.start(ALICE, "box", Command(shell="sleep 1000"))
    clock.ahead_ms += 20 * MINUTE_MS
    await stays(fleet, State.RUNNING)
    await fleet.guest.signal(ALICE, "box", busy.pid, 9)
    # A look at the guest that was under way meanwhile may count as its last use, at whatever time it is then.
    with anyio.fail_after(PATIENCE_S):
        while (await fleet.sandboxes.get(ALICE, "box")).state is not State.ASLEEP:
            clock.ahead_ms += 20 * MINUTE_MS
            await anyio.sleep(0.1)


async def test_a_sandbox_that_may_not_sleep_stays_awake(fleet: Fleet, clock: Clock) -> None:
    await fleet.sandboxes.create(ALICE, replace(SPEC, auto_sleep=False))
    await fleet.sandboxes.create(ALICE, replace(SPEC, name="other", idle_s=0))
    clock.ahead_ms += 1000 * MINUTE_MS
    await stays(fleet, State.RUNNING)
    assert (await fleet.sandboxes.get(ALICE, "other")).state is State.RUNNING
    await fleet.sandboxes.update(ALICE, "box", auto_sleep=True, idle_s=60)
    await until(fleet, State.ASLEEP)


async def test_a_sandbox_is_deleted_when_its_ttl_ends_and_not_before(fleet: Fleet, clock: Clock) -> None:
    await fleet.sandboxes.create(ALICE, replace(SPEC, ttl_s=600, auto_sleep=False))
    clock.ahead_ms += 9 * MINUTE_MS
    await fleet.sandboxes.update(ALICE, "box", ttl_s=600)
    clock.ahead_ms += 9 * MINUTE_MS
    await stays(fleet, State.RUNNING)
    await fleet.lifecycle.sleep(ALICE, "box")
    clock.ahead_ms += 1000 * MINUTE_MS
    await fleet.lifecycle.wake(ALICE, "box")
    await stays(fleet, State.RUNNING)
    clock.ahead_ms += 2 * MINUTE_MS
    with anyio.fail_after(PATIENCE_S), pytest.raises(NotFound):
        while True:
            await fleet.sandboxes.get(ALICE, "box")
            await anyio.sleep(0.1)


async def test_clocks_continue_across_a_restart_of_the_server(open_fleet: Opener, clock: Clock) -> None:
    async with _opened(open_fleet, clock, keep=True) as fleet:
        await fleet.sandboxes.create(ALICE, replace(SPEC, ttl_s=3600))
        before = await fleet.sandboxes.get(ALICE, "box")
        clock.ahead_ms += 4 * MINUTE_MS
        await fleet.guest.exec(ALICE, "box", Command(shell="true"), wait_ms=10_000)
    clock.ahead_ms += 3 * MINUTE_MS
    async with _opened(open_fleet, clock) as fleet:
        after = await fleet.sandboxes.get(ALICE, "box")
        assert after.expires_ms == before.expires_ms
        assert after.active_ms >= before.active_ms + 4 * MINUTE_MS
        await stays(fleet, State.RUNNING)
        clock.ahead_ms += 3 * MINUTE_MS
        await until(fleet, State.ASLEEP)


async def test_a_sandbox_that_sleeps_longer_than_the_retention_is_deleted(open_fleet: Opener, clock: Clock) -> None:
    async with _opened(open_fleet, clock, retention_s=3600) as fleet:
        await fleet.sandboxes.create(ALICE, SPEC)
        await fleet.lifecycle.sleep(ALICE, "box")
        clock.ahead_ms += 59 * MINUTE_MS
        await stays(fleet, State.ASLEEP)
        clock.ahead_ms += 2 * MINUTE_MS
        with anyio.fail_after(PATIENCE_S), pytest.raises(NotFound):
            while True:
                await fleet.sandboxes.get(ALICE, "box")
                await anyio.sleep(0.1)
