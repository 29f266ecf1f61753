"""Why a command ended that did not end by itself, as models and clients read it."""

from __future__ import annotations

from mcp_server.exit_reason import why_killed
from mcp_server.rest.commands import outcome_object
from mcp_server.tools.report import outcome_text
from vmm.guest.values import Captured, Outcome


def ended(*, timed_out: bool = False, memory_kill: str = "") -> Outcome:
    return Outcome(
        pid=41,
        running=False,
        exit_code=137,
        signal=9,
        timed_out=timed_out,
        stdout=Captured(),
        stderr=Captured(head=b"own words\n", total=10),
        duration_ms=230,
        memory_kill=memory_kill,
    )


def test_want_of_memory_is_told_with_the_process_on_every_surface() -> None:
    outcome = ended(memory_kill="perl (834 MiB)")
    why = "out of memory: the sandbox's kernel ended perl (834 MiB)"
    assert why_killed(outcome) == why
    assert outcome_text(outcome, "box", budget=1000, timeout_s=0).endswith(f"[{why} | exit 137 | 230 ms]")
    answer = outcome_object(outcome)
    assert (answer["stderr"], answer.get("outOfMemory")) == (f"own words\n[{why}]\n", True)


def test_a_limit_of_time_comes_first_and_a_plain_signal_says_nothing_of_either() -> None:
    assert why_killed(ended(timed_out=True), timeout_s=8) == "killed: it took longer than 8 s"
    assert why_killed(ended(timed_out=True)) == "killed: it took longer than its timeout"
    assert why_killed(ended()) == ""
    assert "outOfMemory" not in outcome_object(ended())
