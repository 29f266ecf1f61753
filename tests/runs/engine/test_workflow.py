"""Workflows: what runs when, what fails, and what is skipped. Programs are real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from runs.engine import output, workflow
from runs.engine.machine import STEP_TIMEOUT_S
from runs.engine.report import Status, StepReport, WorkflowReport
from runs.engine.workflow import Workflow
from runs.specs.document import parse
from runs.specs.workflow import WorkflowSection
from tests.runs.engine.host_machine import HostMachine
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(tmp_path: Path) -> HostMachine:
    return HostMachine(tmp_path)


def section(*steps: dict[str, Any], **more: Any) -> WorkflowSection:
    spec = {"kind": "workflow", "name": "w", "workflow": {"steps": list(steps), **more}}
    found = parse(json.dumps(spec).encode(), file="w.json").spec.workflow
    assert found is not None
    return found


def step(name: str, line: str, *needs: str, stdin_from: str = "", **more: Any) -> dict[str, Any]:
    """A step that is a line of shell."""
    run = {"program": "sh", "args": ["-c", line]} | ({"stdin_from": stdin_from} if stdin_from else {})
    return {"name": name, "run": run, "depends_on": list(needs), **more}


async def run(machine: HostMachine, *steps: dict[str, Any], **more: Any) -> WorkflowReport:
    with anyio.fail_after(PATIENCE_S):
        return await Workflow(section(*steps, **more)).run(machine)


def states(report: WorkflowReport) -> dict[str, str]:
    return {one.name: str(one.status) for one in report.steps}


async def test_the_output_is_that_of_the_named_step(machine: HostMachine) -> None:
    report = await run(machine, step("a", "echo one; echo two"), step("b", "wc -l", "a"), step("c", "echo no", "b"),
                       output_step="b")  # fmt: skip
    assert (report.success, report.output.strip()) == (True, b"2")
    assert states(report) == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}


async def test_steps_that_do_not_need_each_other_run_side_by_side(machine: HostMachine, tmp_path: Path) -> None:
    (await anyio.run_process(["mkfifo", tmp_path / "there", tmp_path / "back"])).check_returncode()
    # Each ends only if the other runs at the same time.
    report = await run(
        machine,
        step("a", "echo x > there; cat back"),
        step("b", "read line < there; echo $line > back"),
        step("c", "cat", "a", "b"),
    )
    assert (report.success, report.output) == (True, b"x\n")


async def test_a_step_starts_as_soon_as_what_it_needs_is_there(machine: HostMachine, tmp_path: Path) -> None:
    (await anyio.run_process(["mkfifo", tmp_path / "pipe"])).check_returncode()
    # `slow` is on the first level and ends only after `late`, which is on the second, has run.
    report = await run(machine, step("slow", "cat pipe"), step("first", "true"), step("late", "echo x > pipe", "first"))
    assert states(report) == {"slow": "succeeded", "first": "succeeded", "late": "succeeded"}


async def test_a_step_reads_the_output_of_the_step_that_it_names(machine: HostMachine) -> None:
    steps = (step("a", "echo a"), step("b", "echo b"), step("c", "cat", "a", stdin_from="b"))
    assert (await run(machine, *steps)).output == b"b\n"


async def test_without_a_name_a_step_reads_the_output_of_the_first_that_it_depends_on(machine: HostMachine) -> None:
    assert (await run(machine, step("a", "echo a"), step("b", "echo b"), step("c", "cat", "b", "a"))).output == b"b\n"
    assert (await run(machine, step("alone", "cat"))).output == b""


async def test_output_is_handed_on_byte_by_byte(machine: HostMachine) -> None:
    data = "head -c 3000000 /dev/zero; printf '\\377\\000x'"
    report = await run(machine, step("a", data), step("b", "tail -c 3 | od -An -tx1", stdin_from="a"))
    assert report.output.split() == [b"ff", b"00", b"78"]


async def test_a_step_need_not_read_what_it_is_given(machine: HostMachine) -> None:
    assert (await run(machine, step("a", "head -c 3000000 /dev/zero"), step("b", "exec <&-; true", "a"))).success


async def test_what_needs_a_step_that_failed_is_skipped_with_the_reason_and_the_rest_goes_on(
    machine: HostMachine,
) -> None:
    report = await run(
        machine,
        step("bad", "echo half; echo 'it broke' >&2; exit 3"),
        step("next", "true", "bad"),
        step("after", "true", "next"),
        step("other", "echo fine"),
        output_step="after",
    )
    assert (report.success, report.output) == (False, b"")
    found = {one.name: (one.status, one.exit_code, one.reason) for one in report.steps}
    assert found == {
        "bad": (Status.FAILED, 3, "exit status 3: it broke"),
        "next": (Status.SKIPPED, None, 'dependency "bad" failed'),
        "after": (Status.SKIPPED, None, 'dependency "next" skipped'),
        "other": (Status.SUCCEEDED, 0, ""),
    }


async def test_a_workflow_succeeds_with_its_result_whatever_else_failed(machine: HostMachine) -> None:
    report = await run(machine, step("bad", "exit 1"), step("good", "echo x"), output_step="good")
    assert (report.success, report.output) == (True, b"x\n")
    assert not (await run(machine, step("good", "echo x"), step("bad", "echo y; exit 1"), output_step="bad")).success


async def test_a_step_is_started_again_as_often_as_it_says(machine: HostMachine, tmp_path: Path) -> None:
    line = "echo x >> {0}; test $(wc -l < {0}) -ge 3"
    report = await run(
        machine,
        step("third", line.format("a"), retries=2),
        step("never", "echo x >> b; exit 9", retries=1),
        step("once", "echo x >> c; exit 9"),
    )
    assert {one.name: (one.attempt, str(one.status)) for one in report.steps} == {
        "third": (3, "succeeded"),
        "never": (2, "failed"),
        "once": (1, "failed"),
    }
    assert (tmp_path / "b").read_text() == "x\n" * 2
    assert report.steps[0].reason == ""


async def test_what_a_failed_attempt_wrote_is_not_handed_on(machine: HostMachine) -> None:
    line = "echo x >> tries; echo try $(wc -l < tries); test $(wc -l < tries) -ge 2"
    assert (await run(machine, step("a", line, retries=1), step("b", "cat", "a"))).output == b"try 2\n"


async def test_each_step_has_its_time_limit_and_services_have_none(machine: HostMachine) -> None:
    await run(
        machine,
        {"name": "a", "run": {"program": "true"}, "timeout_secs": 7},
        {"name": "b", "run": {"program": "false"}},
        {"name": "c", "run": {"program": "echo"}, "mode": "service"},
    )
    assert machine.limits == {"true": 7, "false": STEP_TIMEOUT_S, "echo": 0}


async def test_a_machine_that_is_lost_fails_its_steps_without_another_attempt(machine: HostMachine) -> None:
    machine.lost.add("gone")
    report = await run(machine, {"name": "a", "run": {"program": "gone"}, "retries": 5}, step("b", "true", "a"))
    assert (report.steps[0].attempt, report.steps[0].reason) == (1, "the machine died")
    assert report.steps[1].status is Status.SKIPPED


async def test_an_output_that_is_handed_on_is_bounded_and_others_are_not(
    machine: HostMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MOST_BYTES", 100_000)
    much = "head -c 200000 /dev/zero"
    report = await run(
        machine, step("read", much), step("b", "cat", "read"), step("unread", much, "b"), step("end", ":")
    )
    assert states(report) == {"read": "failed", "b": "skipped", "unread": "skipped", "end": "succeeded"}
    assert report.steps[0].reason == "its output is larger than 16 MiB: write it to a file instead"
    report = await run(machine, step("unread", much), step("end", ":"))
    assert states(report) == {"unread": "succeeded", "end": "succeeded"}


async def test_only_so_many_steps_run_at_once(machine: HostMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "MOST_PARALLEL", 1)
    # A step that runs beside another would find its directory.
    steps = [step(f"s{number}", "mkdir only && rmdir only") for number in range(20)]
    assert set(states(await run(machine, *steps)).values()) == {"succeeded"}


async def test_changes_of_steps_are_told_in_order(machine: HostMachine) -> None:
    seen: list[tuple[str, str, int]] = []

    def observe(report: StepReport) -> None:
        seen.append((report.name, str(report.status), report.attempt))

    steps = section(
        step("a", "test -e x || { : > x; exit 1; }", retries=1), step("b", "exit 1", "a"), step("c", "", "b")
    )
    await Workflow(steps, observe=observe, now_ms=lambda: 5).run(machine)
    assert seen == [
        ("a", "running", 1),
        ("a", "running", 2),
        ("a", "succeeded", 2),
        ("b", "running", 1),
        ("b", "failed", 1),
        ("c", "skipped", 0),
    ]


async def test_a_workflow_that_is_cancelled_ends_its_programs(machine: HostMachine, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Workflow(section(step("a", "echo $$ > pid.new; mv pid.new pid; sleep 1000"))).run, machine)
        await until((tmp_path / "pid").exists)
        tasks.cancel_scope.cancel()
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
