from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vmm.errors import Conflict
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec


def new() -> Sandbox:
    spec = SandboxSpec(name="box", labels={"a": "b"}, env={"SECRET": "hunter2"}, created_by="user")
    return Sandbox.new("5f" * 12, "owner", spec, now_ms=1)


def test_a_record_is_unchanged_after_storing_and_loading() -> None:
    sandbox = new()
    assert Sandbox.of(sandbox.document()) == sandbox


def test_a_new_sandbox_is_creating() -> None:
    assert new().state is State.CREATING


def test_the_record_of_an_earlier_release_has_the_operators_network() -> None:
    document = new().document()
    del document["network"]
    assert Sandbox.of(document).network == ""


def test_a_record_keeps_a_policy_in_one_form_and_the_operators_as_none() -> None:
    def kept(network: str) -> str:
        return Sandbox.new("5f" * 12, "owner", SandboxSpec(name="box", network=network), now_ms=1).network

    assert kept("443/tcp, Example.com") == "example.com,443/tcp"
    assert (kept("default"), kept("")) == ("", "")


def test_its_environment_is_not_in_its_repr() -> None:
    assert "hunter2" not in repr(new())


def test_a_deleted_sandbox_stays_deleted() -> None:
    deleted = new().moved(State.DELETED, now_ms=2)
    for state in State:
        with pytest.raises(Conflict, match="is deleted, it cannot become"):
            deleted.moved(state, now_ms=3)


class Life(RuleBasedStateMachine):
    """Any sequence of allowed steps keeps what a record promises."""

    def __init__(self) -> None:
        super().__init__()
        self.sandbox = new()
        self.now = 1

    @rule(to=st.sampled_from(State))
    def move(self, to: State) -> None:
        self.now += 1
        before = self.sandbox
        if before.state.may_become(to):
            self.sandbox = before.moved(to, now_ms=self.now, reason="because")
            assert self.sandbox.updated_ms == self.now
        else:
            with pytest.raises(Conflict):
                before.moved(to, now_ms=self.now)
            assert self.sandbox is before

    @precondition(lambda self: self.sandbox.state is not State.DELETED)
    @invariant()
    def can_always_be_deleted(self) -> None:
        assert self.sandbox.state.may_become(State.DELETED)

    @invariant()
    def never_goes_back_to_creating(self) -> None:
        assert not self.sandbox.state.may_become(State.CREATING)

    @invariant()
    def keeps_who_and_what_it_is(self) -> None:
        first = new()
        assert (self.sandbox.id, self.sandbox.owner, self.sandbox.created_ms) == (
            first.id,
            first.owner,
            first.created_ms,
        )


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=20)
