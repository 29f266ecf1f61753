from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.errors import Conflict
from vmm.lifecycle.activity import Activity

pytestmark = pytest.mark.anyio

BOX = "b" * 24
STEPS = st.integers(0, 4)


class Clock:
    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def activity(clock: Clock) -> Activity:
    return Activity(clock)


async def test_an_unused_sandbox_has_no_last_use(activity: Activity) -> None:
    assert activity.used_ms(BOX) == 0
    assert not activity.in_use(BOX)


async def test_a_use_lasts_until_the_end_of_its_block_which_is_the_last_use(activity: Activity, clock: Clock) -> None:
    async with activity.use(BOX):
        clock.now = 5000
        assert activity.in_use(BOX)
        assert activity.used_ms(BOX) == 5000
    clock.now = 9000
    assert not activity.in_use(BOX)
    assert activity.used_ms(BOX) == 5000


async def test_the_later_end_of_two_uses_counts(activity: Activity, clock: Clock) -> None:
    async with activity.use(BOX):
        async with activity.use(BOX):
            clock.now = 2000
        clock.now = 3000
        assert activity.in_use(BOX)
    assert activity.used_ms(BOX) == 3000


async def test_a_failed_use_counts_as_a_use(activity: Activity, clock: Clock) -> None:
    with pytest.raises(ValueError, match="within"):
        async with activity.use(BOX):
            clock.now = 2000
            raise ValueError("within")
    assert (activity.in_use(BOX), activity.used_ms(BOX)) == (False, 2000)


async def test_a_use_of_a_closed_sandbox_waits_until_it_is_open(activity: Activity) -> None:
    order: list[str] = []

    async def use() -> None:
        async with activity.use(BOX):
            order.append("used")

    async with anyio.create_task_group() as tasks, activity.closed(BOX):
        tasks.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        order.append("opened")
    assert order == ["opened", "used"]


async def test_closing_does_not_wait_for_running_uses(activity: Activity) -> None:
    async with activity.use(BOX), activity.closed(BOX):
        assert activity.in_use(BOX)


async def test_two_closings_run_one_after_the_other(activity: Activity) -> None:
    inside: list[int] = []
    most: list[int] = []

    async def close(number: int) -> None:
        async with activity.closed(BOX):
            inside.append(number)
            most.append(len(inside))
            await anyio.lowlevel.checkpoint()
            inside.remove(number)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(close, number)
    assert most == [1] * 5


async def test_a_sandbox_in_use_cannot_be_claimed(activity: Activity) -> None:
    async with activity.use(BOX):
        with pytest.raises(Conflict, match=BOX):
            async with activity.claimed(BOX, activity.used_ms(BOX)):
                pass
        async with activity.use(BOX):  # the refused claim holds nothing
            pass


async def test_a_sandbox_that_was_used_in_the_meantime_cannot_be_claimed(activity: Activity, clock: Clock) -> None:
    async with activity.use(BOX):
        pass
    seen = activity.used_ms(BOX)
    clock.now += 1
    async with activity.use(BOX):
        pass
    with pytest.raises(Conflict):
        async with activity.claimed(BOX, seen):
            pass
    async with activity.claimed(BOX, activity.used_ms(BOX)):
        pass


async def test_a_cancelled_claim_lets_waiting_uses_continue(activity: Activity) -> None:
    with pytest.raises(ValueError, match="within"):
        async with activity.claimed(BOX, 0):
            raise ValueError("within")
    async with activity.use(BOX):
        pass


async def test_a_cancelled_wait_leaves_nothing_behind(activity: Activity) -> None:
    async with activity.closed(BOX):
        with anyio.move_on_after(0.01) as waited:
            async with activity.use(BOX):
                pass
        assert waited.cancelled_caught
    assert (activity.in_use(BOX), activity.used_ms(BOX)) == (False, 0)


async def test_sandboxes_do_not_block_each_other(activity: Activity) -> None:
    async with activity.closed(BOX), activity.use("c" * 24), activity.claimed("d" * 24, 0):
        pass


async def test_a_deleted_sandbox_is_forgotten_without_harm_to_waiting_calls(activity: Activity) -> None:
    async def use() -> None:
        async with activity.use(BOX):
            activity.forget(BOX)

    async with anyio.create_task_group() as tasks, activity.closed(BOX):
        tasks.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        activity.forget(BOX)
    activity.forget(BOX)
    assert activity.used_ms(BOX) == 0


@settings(max_examples=200)
@given(
    uses=st.lists(st.tuples(STEPS, STEPS), max_size=6),
    claims=st.lists(st.tuples(STEPS, STEPS, st.booleans()), max_size=4),
)
def test_a_claimed_sandbox_is_never_in_use_in_any_order_of_events(
    uses: list[tuple[int, int]], claims: list[tuple[int, int, bool]]
) -> None:
    anyio.run(_crowd, uses, claims)


async def _crowd(uses: list[tuple[int, int]], claims: list[tuple[int, int, bool]]) -> None:
    clock = Clock()
    activity = Activity(clock)
    users, claimants = [0], [0]

    async def pause(steps: int) -> None:
        for _ in range(steps):
            clock.now += 1
            await anyio.lowlevel.checkpoint()

    async def use(before: int, during: int) -> None:
        await pause(before)
        async with activity.use(BOX):
            users[0] += 1
            for _ in range(during + 1):
                assert not claimants[0]
                await pause(1)
            users[0] -= 1

    async def claim(before: int, during: int, patient: bool) -> None:
        await pause(before)
        seen = activity.used_ms(BOX)
        await pause(before if patient else 0)
        try:
            async with activity.claimed(BOX, seen):
                claimants[0] += 1
                assert (users[0], claimants[0]) == (0, 1)
                await pause(during)
                claimants[0] -= 1
        except Conflict:
            pass

    async with anyio.create_task_group() as tasks:
        for each in uses:
            tasks.start_soon(use, *each)
        for each in claims:
            tasks.start_soon(claim, *each)
    assert (users[0], claimants[0]) == (0, 0)
    async with activity.claimed(BOX, activity.used_ms(BOX)):
        pass
