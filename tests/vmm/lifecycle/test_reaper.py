"""The sweep on a real store, with a clock of the test's own; machines are not needed to decide."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from storage.ids import new_id
from storage.sqlite import SqliteDatabase
from vmm.errors import Conflict, LinkError, NotFound, Unavailable
from vmm.lifecycle import reaper as module
from vmm.lifecycle.activity import Activity
from vmm.lifecycle.reaper import Reaper
from vmm.sandboxes import lease
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.store import SANDBOXES, SandboxStore

pytestmark = pytest.mark.anyio

DAY_S = 86_400
NOW = 1_800_000_000_000
STEPS = 12
"""More than a sweep over one sandbox has."""


async def _nothing() -> None:
    pass


class Yard(SandboxStore):
    """A store of sandboxes, a reaper over it, and what the reaper has others do.

    Attributes:
        now: The time.
        busy: Sandboxes in whose guest something goes on.
        asked: Whose guests were asked.
        ask: What happens while a guest is asked.
        step: Happens before each step of a sweep.
    """

    def __init__(self, collection: object, retention_s: int = 0) -> None:
        super().__init__(collection, host="here")  # pyright: ignore[reportArgumentType]
        self.now = NOW
        self.busy: set[str] = set()
        self.asked: list[str] = []
        self.ask: Callable[[Sandbox], Awaitable[None]] | None = None
        self.step: Callable[[], Awaitable[None]] = _nothing
        self.start(retention_s)

    def start(self, retention_s: int = 0) -> None:
        """Begin anew, as a server does: what was in memory is gone."""
        self.activity = Activity(lambda: self.now)
        self.reaper = Reaper(
            self,
            self.activity,
            sleep=self._sleep,
            delete=self._delete,
            guest_idle=self._guest_idle,
            retention_s=retention_s,
            now_ms=lambda: self.now,
        )

    async def sweep(self, after_s: float = 0) -> None:
        self.now += round(after_s * 1000)
        await self.reaper.sweep()

    async def running(self, *, ttl_s: int = 0, idle_s: int = 0, auto_sleep: bool = True) -> Sandbox:
        spec = SandboxSpec(name="box", ttl_s=ttl_s, idle_s=idle_s, auto_sleep=auto_sleep)
        sandbox = Sandbox.new(new_id(), "alice", spec, now_ms=self.now).moved(State.RUNNING, now_ms=self.now)
        await self.insert(sandbox)
        return sandbox

    async def asleep(self, *, ttl_s: int = 0) -> Sandbox:
        sandbox = await self.running(ttl_s=ttl_s)
        return await super().save(lease.asleep(sandbox.moved(State.ASLEEP, now_ms=self.now), self.now))

    async def state(self, sandbox: Sandbox) -> State:
        return (await self.record(sandbox)).state

    async def record(self, sandbox: Sandbox) -> Sandbox:
        found = await self.find(sandbox.id)
        assert found is not None
        return found

    async def use(self, sandbox: Sandbox) -> None:
        async with self.activity.use(sandbox.id):
            pass

    async def renew(self, sandbox: Sandbox, ttl_s: int) -> bool:
        """What an owner's call does: False if the sandbox was gone first."""
        while True:
            found = await self.record(sandbox)
            if found.state is State.DELETED:
                return False
            try:
                await super().save(lease.renewed(found, ttl_s, self.now))
            except Conflict:
                continue
            return True

    async def in_state(self, state: State) -> list[Sandbox]:
        await self.step()
        found = await super().in_state(state)
        await self.step()
        return found

    async def save(self, sandbox: Sandbox) -> Sandbox:
        await self.step()
        saved = await super().save(sandbox)
        await self.step()
        return saved

    async def _sleep(self, sandbox: Sandbox, used_ms: int) -> None:
        await self.step()
        async with self.activity.claimed(sandbox.id, used_ms):
            await self.save(lease.asleep(sandbox.moved(State.ASLEEP, now_ms=self.now), self.now))

    async def _delete(self, sandbox: Sandbox) -> None:
        await self.save(sandbox.moved(State.DELETED, now_ms=self.now))

    async def _guest_idle(self, sandbox: Sandbox) -> bool:
        await self.step()
        self.asked.append(sandbox.id)
        if self.ask is not None:
            await self.ask(sandbox)
        return sandbox.id not in self.busy


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[SqliteDatabase]:
    async with SqliteDatabase(tmp_path / "casemate.db") as database:
        yield database


@pytest.fixture
async def yard(database: SqliteDatabase) -> Yard:
    return Yard(await database.collection(SANDBOXES))


async def test_only_expired_sandboxes_are_deleted(yard: Yard) -> None:
    short, long, endless = await yard.running(ttl_s=60), await yard.running(ttl_s=61), await yard.running()
    await yard.sweep(after_s=59.999)
    assert await yard.state(short) is State.RUNNING
    await yard.sweep(after_s=0.001)
    assert [await yard.state(each) for each in (short, long, endless)] == [State.DELETED, State.RUNNING, State.RUNNING]


@pytest.mark.parametrize("state", [State.KILLED, State.ERROR])
async def test_ended_sandboxes_are_deleted_when_they_expire(yard: Yard, state: State) -> None:
    dead = await yard.save((await yard.running(ttl_s=60)).moved(state, now_ms=yard.now))
    await yard.sweep(after_s=60)
    assert await yard.state(dead) is State.DELETED


async def test_a_sandbox_expires_even_while_it_is_in_use(yard: Yard) -> None:
    sandbox = await yard.running(ttl_s=60)
    async with yard.activity.use(sandbox.id):
        await yard.sweep(after_s=60)
    assert await yard.state(sandbox) is State.DELETED


async def test_a_sandbox_does_not_expire_while_it_sleeps(yard: Yard) -> None:
    sandbox = await yard.asleep(ttl_s=60)
    await yard.sweep(after_s=400 * DAY_S)
    assert await yard.state(sandbox) is State.ASLEEP


async def test_a_sandbox_that_slept_longer_than_the_retention_is_deleted(yard: Yard) -> None:
    yard.start(retention_s=7 * DAY_S)
    first = await yard.asleep()
    await yard.sweep(after_s=DAY_S)
    second = await yard.asleep()
    await yard.sweep(after_s=6 * DAY_S)
    assert [await yard.state(each) for each in (first, second)] == [State.DELETED, State.ASLEEP]


@pytest.mark.parametrize("moment", range(STEPS))
async def test_a_renewed_lease_never_races_its_timer(yard: Yard, moment: int) -> None:
    sandbox = await yard.running(ttl_s=60)
    steps, renewed = [0], [False]

    async def renew_at_the_moment() -> None:
        if steps[0] == moment:
            steps[0] += 1
            renewed[0] = await yard.renew(sandbox, 600)
        steps[0] += 1

    yard.step = renew_at_the_moment
    await yard.sweep(after_s=60)
    yard.step = _nothing
    if steps[0] <= moment:  # the sweep was over before: so late comes a call that finds nothing
        renewed[0] = await yard.renew(sandbox, 600)
    assert await yard.state(sandbox) is (State.RUNNING if renewed[0] else State.DELETED)
    await yard.sweep(after_s=599)
    assert await yard.state(sandbox) is (State.RUNNING if renewed[0] else State.DELETED)
    await yard.sweep(after_s=1)
    assert await yard.state(sandbox) is State.DELETED


async def test_a_ttl_can_be_renewed_at_its_first_and_its_last_moment(yard: Yard) -> None:
    """The moments of the test above do lie on both sides of the deletion."""
    sandbox = await yard.running(ttl_s=60)
    states: list[State] = []

    async def note() -> None:
        states.append(await yard.state(sandbox))

    yard.step = note
    await yard.sweep(after_s=60)
    assert states[0] is State.RUNNING
    assert states[-1] is State.DELETED
    assert len(states) <= STEPS


async def test_an_idle_sandbox_falls_asleep_some_time_after_its_last_use(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)
    await yard.sweep(after_s=200)
    await yard.use(sandbox)
    await yard.sweep(after_s=299)
    assert await yard.state(sandbox) is State.RUNNING
    await yard.sweep(after_s=1)
    assert await yard.state(sandbox) is State.ASLEEP
    assert (await yard.record(sandbox)).slept_ms == yard.now


async def test_a_guest_is_not_asked_before_its_sandbox_could_be_idle(yard: Yard) -> None:
    await yard.running(idle_s=300)
    await yard.sweep(after_s=299)
    assert yard.asked == []


async def test_a_sandbox_in_use_stays_awake_however_long(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)
    async with yard.activity.use(sandbox.id):
        await yard.sweep(after_s=DAY_S)
        assert await yard.state(sandbox) is State.RUNNING
    await yard.sweep(after_s=299)
    assert await yard.state(sandbox) is State.RUNNING
    await yard.sweep(after_s=1)
    assert await yard.state(sandbox) is State.ASLEEP


async def test_a_sandbox_that_must_not_sleep_stays_awake(yard: Yard) -> None:
    never, off = await yard.running(idle_s=0), await yard.running(idle_s=300, auto_sleep=False)
    await yard.sweep(after_s=DAY_S)
    assert [await yard.state(each) for each in (never, off)] == [State.RUNNING] * 2


async def test_a_running_program_keeps_a_sandbox_awake_until_it_ends(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)
    yard.busy.add(sandbox.id)
    await yard.sweep(after_s=300)
    await yard.sweep(after_s=5)
    assert await yard.state(sandbox) is State.RUNNING
    assert yard.asked == [sandbox.id]
    yard.busy.clear()
    await yard.sweep(after_s=295)
    assert await yard.state(sandbox) is State.ASLEEP


async def test_a_short_use_while_the_guest_is_asked_keeps_a_sandbox_awake(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)

    async def use(_: Sandbox) -> None:
        yard.now += 1
        await yard.use(sandbox)

    yard.ask = use
    await yard.sweep(after_s=300)
    assert await yard.state(sandbox) is State.RUNNING


@pytest.mark.parametrize("moment", range(STEPS))
async def test_a_use_at_any_moment_of_a_sweep_finds_a_sandbox_awake_or_asleep(yard: Yard, moment: int) -> None:
    sandbox = await yard.running(idle_s=300)
    steps, found = [0], list[State]()

    async def use() -> None:
        async with yard.activity.use(sandbox.id):
            before = (await yard.record(sandbox)).state
            await anyio.lowlevel.checkpoint()
            assert (await yard.record(sandbox)).state is before
            found.append(before)

    async with anyio.create_task_group() as tasks:

        async def use_at_the_moment() -> None:
            if steps[0] == moment:
                tasks.start_soon(use)
                await anyio.wait_all_tasks_blocked()
            steps[0] += 1

        yard.step = use_at_the_moment
        await yard.sweep(after_s=300)
    assert found in ([], [State.RUNNING], [State.ASLEEP])
    assert (await yard.state(sandbox) is State.RUNNING) == (found == [State.RUNNING])


async def test_a_concurrent_change_of_the_record_keeps_a_sandbox_awake_until_the_next_sweep(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)

    async def rename(_: Sandbox) -> None:
        yard.ask = None
        await SandboxStore.save(yard, replace(await yard.record(sandbox), auto_sleep=False))

    yard.ask = rename
    await yard.sweep(after_s=300)
    await yard.sweep(after_s=300)
    assert await yard.state(sandbox) is State.RUNNING


async def test_an_unresponsive_guest_delays_no_other(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.05)
    stuck, broken, healthy = [await yard.running(idle_s=300) for _ in range(3)]

    async def answer(sandbox: Sandbox) -> None:
        if sandbox.id == stuck.id:
            await anyio.sleep_forever()
        if sandbox.id == broken.id:
            raise LinkError("The connection broke")

    yard.ask = answer
    await yard.sweep(after_s=300)
    assert [await yard.state(each) for each in (stuck, broken, healthy)] == [State.RUNNING, State.RUNNING, State.ASLEEP]
    yard.asked.clear()
    await yard.sweep(after_s=5)
    assert yard.asked == []
    yard.ask = None
    await yard.sweep(after_s=60)
    assert [await yard.state(each) for each in (stuck, broken)] == [State.ASLEEP] * 2


@pytest.mark.parametrize(
    "error", [Unavailable("no"), OSError("no"), TimeoutError("no"), NotFound("no"), KeyError("no")]
)
async def test_a_failure_for_one_sandbox_delays_no_other(
    yard: Yard, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor, lucky = await yard.running(ttl_s=60), await yard.running(ttl_s=60)
    save = yard.save

    async def failing(sandbox: Sandbox) -> Sandbox:
        if sandbox.id == poor.id:
            raise error
        return await save(sandbox)

    monkeypatch.setattr(yard, "save", failing)
    await yard.sweep(after_s=60)
    assert [await yard.state(each) for each in (poor, lucky)] == [State.RUNNING, State.DELETED]


async def test_uses_are_saved_periodically_and_not_each_time(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)
    yard.now += 29_999
    await yard.use(sandbox)
    await yard.sweep()
    assert (await yard.record(sandbox)).version == sandbox.version
    yard.now += 1
    await yard.use(sandbox)
    await yard.sweep(after_s=4)
    written = await yard.record(sandbox)
    assert written.active_ms == NOW + 30_000
    assert written.updated_ms == sandbox.updated_ms


async def test_a_restart_does_not_reset_the_idle_clock(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)
    yard.now += 20_000
    await yard.use(sandbox)
    await yard.reaper.record_uses()
    yard.start()
    await yard.sweep(after_s=299)
    assert await yard.state(sandbox) is State.RUNNING
    await yard.sweep(after_s=1)
    assert await yard.state(sandbox) is State.ASLEEP


async def test_stopping_saves_nothing_for_unused_sandboxes(yard: Yard) -> None:
    sandbox = await yard.running(idle_s=300)
    await yard.reaper.record_uses()
    assert (await yard.record(sandbox)).version == sandbox.version


async def test_a_failing_store_is_reported_to_the_caller_of_a_sweep(yard: Yard, database: SqliteDatabase) -> None:
    await yard.running(ttl_s=60)
    await database.aclose()
    with pytest.raises(Unavailable):
        await yard.sweep(after_s=60)
