from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vmm.errors import Conflict, InvalidInput
from vmm.sandboxes import lease
from vmm.sandboxes.lease import MAX_IDLE_S, MAX_TTL_S
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

NOW = 1_800_000_000_000
DAY_S = 86_400
SPANS = st.integers(0, 40 * DAY_S * 1000)


def running(*, ttl_s: int = 0, idle_s: int = 300, auto_sleep: bool = True, now_ms: int = NOW) -> Sandbox:
    spec = SandboxSpec(name="box", ttl_s=ttl_s, idle_s=idle_s, auto_sleep=auto_sleep)
    return Sandbox.new("5f" * 12, "owner", spec, now_ms=now_ms).moved(State.RUNNING, now_ms=now_ms)


def sleeping(sandbox: Sandbox, now_ms: int) -> Sandbox:
    return lease.asleep(sandbox.moved(State.ASLEEP, now_ms=now_ms), now_ms)


def woken(sandbox: Sandbox, now_ms: int) -> Sandbox:
    return lease.awake(sandbox.moved(State.RUNNING, now_ms=now_ms), now_ms)


@pytest.mark.parametrize("value", [-1, MAX_TTL_S + 1, 365 * DAY_S, 10**100])
def test_an_invalid_ttl_is_refused_with_the_valid_range(value: int) -> None:
    with pytest.raises(InvalidInput, match=r"^ttl must be 0 to 2592000 seconds \(30 days\), got .*\. 0 means no limit"):
        lease.check_ttl(value)
    with pytest.raises(InvalidInput):
        lease.renewed(running(), value, NOW)


@pytest.mark.parametrize("value", [-1, MAX_IDLE_S + 1, 10**100])
def test_an_invalid_idle_limit_is_refused_with_the_valid_range(value: int) -> None:
    with pytest.raises(InvalidInput, match=r"^idle must be 0 to 2592000 seconds .*, got .*\. 0 means never"):
        lease.check_idle(value)


@pytest.mark.parametrize("value", [0, 1, MAX_TTL_S])
def test_valid_limits_are_accepted(value: int) -> None:
    lease.check_ttl(value)
    lease.check_idle(value)


@pytest.mark.parametrize("state", [State.KILLED, State.ERROR, State.DELETED])
def test_the_ttl_of_an_ended_sandbox_cannot_be_changed(state: State) -> None:
    with pytest.raises(Conflict, match=rf"^ttl: sandbox {'5f' * 12} is {state}, .*\. (Start|Create)"):
        lease.renewed(replace(running(), state=state), 60, NOW)


def test_a_sandbox_expires_when_its_ttl_is_over() -> None:
    sandbox = running(ttl_s=60)
    assert not lease.expired(sandbox, NOW + 59_999)
    assert lease.expired(sandbox, NOW + 60_000)


def test_without_a_ttl_a_sandbox_never_expires() -> None:
    assert not lease.expired(running(), 2**62)


def test_the_ttl_continues_after_a_machine_dies() -> None:
    killed = running(ttl_s=60).moved(State.KILLED, now_ms=NOW)
    assert lease.expired(killed, NOW + 60_000)


@pytest.mark.parametrize("state", [State.CREATING, State.ASLEEP, State.DELETED])
def test_a_sandbox_that_is_created_asleep_or_deleted_does_not_expire(state: State) -> None:
    assert not lease.expired(replace(running(ttl_s=60), state=state), 2**62)


def test_a_ttl_can_be_extended_shortened_and_removed() -> None:
    sandbox = running(ttl_s=60)
    assert lease.renewed(sandbox, 600, NOW + 50_000).expires_ms == NOW + 650_000
    assert lease.renewed(sandbox, 1, NOW).expires_ms == NOW + 1000
    assert lease.renewed(sandbox, 0, NOW).expires_ms == 0
    assert lease.renewed(sandbox, 0, NOW).ttl_s == 0


def test_a_ttl_set_during_sleep_counts_from_the_next_wake() -> None:
    asleep = lease.renewed(sleeping(running(), NOW), 60, NOW + 5000)
    assert (asleep.expires_ms, asleep.left_ms) == (0, 60_000)
    assert woken(asleep, NOW + 900_000).expires_ms == NOW + 960_000


def test_a_sandbox_that_sleeps_at_the_end_of_its_ttl_keeps_a_ttl() -> None:
    late = sleeping(running(ttl_s=60), NOW + 90_000)
    assert late.left_ms == 1
    assert lease.expired(woken(late, NOW + 100_000), NOW + 100_001)


def test_waking_counts_as_a_use() -> None:
    woke = woken(sleeping(running(idle_s=10), NOW), NOW + 500_000)
    assert not lease.idle(woke, 0, NOW + 509_999)
    assert lease.idle(woke, 0, NOW + 510_000)


def test_a_sandbox_is_idle_some_time_after_its_last_use_wherever_that_is_recorded() -> None:
    sandbox = running(idle_s=10)
    assert not lease.idle(sandbox, 0, NOW + 9999)
    assert lease.idle(sandbox, 0, NOW + 10_000)
    assert not lease.idle(sandbox, NOW + 5000, NOW + 14_999)
    assert lease.idle(sandbox, NOW + 5000, NOW + 15_000)


def test_a_clock_that_is_set_back_makes_nothing_idle_or_expired() -> None:
    sandbox = running(idle_s=10, ttl_s=60)
    assert not lease.idle(sandbox, 0, NOW - 10**12)
    assert not lease.expired(sandbox, NOW - 10**12)
    assert not lease.overslept(sleeping(sandbox, NOW), 1, NOW - 10**12)


@pytest.mark.parametrize(
    "sandbox",
    [
        running(auto_sleep=False),
        running(idle_s=0),
        *(replace(running(), state=state) for state in State if state is not State.RUNNING),
    ],
)
def test_a_sandbox_that_does_not_run_or_must_not_sleep_is_never_idle(sandbox: Sandbox) -> None:
    assert not lease.idle(sandbox, 0, 2**62)


def test_sleeping_sandboxes_are_kept_for_the_retention_time() -> None:
    asleep = sleeping(running(), NOW)
    assert not lease.overslept(asleep, 3600, NOW + 3_599_999)
    assert lease.overslept(asleep, 3600, NOW + 3_600_000)
    assert not lease.overslept(asleep, 0, 2**62)
    assert not lease.overslept(running(), 1, 2**62)


@given(ttl_s=st.integers(1, MAX_TTL_S), naps=st.lists(st.tuples(SPANS, SPANS), max_size=20))
def test_sleep_does_not_use_up_the_ttl(ttl_s: int, naps: list[tuple[int, int]]) -> None:
    sandbox, now, lived = running(ttl_s=ttl_s), NOW, 0
    for awake_ms, asleep_ms in naps:
        if lived + awake_ms >= ttl_s * 1000:
            break
        lived += awake_ms
        now += awake_ms
        sandbox = sleeping(sandbox, now)
        now += asleep_ms
        assert not lease.expired(sandbox, now)
        sandbox = woken(sandbox, now)
    assert sandbox.expires_ms == now + ttl_s * 1000 - lived


class Clocks(RuleBasedStateMachine):
    """Whatever happens in whatever order: the record and a plain stop-watch agree on what is left."""

    @initialize(ttl_s=st.integers(0, DAY_S))
    def begin(self, ttl_s: int) -> None:
        self.now = NOW
        self.sandbox = running(ttl_s=ttl_s)
        self.left: int | None = ttl_s * 1000 or None

    @rule(span=st.integers(0, DAY_S * 1000))
    def wait(self, span: int) -> None:
        self.now += span
        if self.left is not None and self.sandbox.state is State.RUNNING:
            self.left -= span

    @precondition(lambda self: self.sandbox.state is State.RUNNING)
    @rule()
    def fall_asleep(self) -> None:
        self.sandbox = sleeping(self.sandbox, self.now)
        self.left = None if self.left is None else max(1, self.left)

    @precondition(lambda self: self.sandbox.state is State.ASLEEP)
    @rule()
    def wake(self) -> None:
        self.sandbox = woken(self.sandbox, self.now)

    @rule(ttl_s=st.integers(0, MAX_TTL_S))
    def renew(self, ttl_s: int) -> None:
        self.sandbox = lease.renewed(self.sandbox, ttl_s, self.now)
        self.left = ttl_s * 1000 or None
        assert not lease.expired(self.sandbox, self.now)

    @invariant()
    def agrees(self) -> None:
        sandbox = self.sandbox
        if sandbox.state is State.ASLEEP:
            assert (sandbox.left_ms or None) == self.left
            assert sandbox.expires_ms == 0
            assert not lease.expired(sandbox, self.now)
        else:
            assert (sandbox.expires_ms - self.now if sandbox.expires_ms else None) == self.left
            assert (sandbox.left_ms, sandbox.slept_ms) == (0, 0)
            assert lease.expired(sandbox, self.now) == (self.left is not None and self.left <= 0)

    @invariant()
    def survives_the_store(self) -> None:
        assert Sandbox.of(self.sandbox.document()) == self.sandbox


TestClocks = Clocks.TestCase
TestClocks.settings = settings(max_examples=50, stateful_step_count=20)
