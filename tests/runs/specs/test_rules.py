"""Rules between fields: names that must exist, once, and no circles."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runs.specs.document import parse
from tests.runs.specs.faulty import faults_of


def steps(*lines: str, more: str = "") -> str:
    """A workflow whose steps each stand on a line of its own, from line 5."""
    return "\n".join(
        ["kind: workflow", "name: w", "workflow:", "  steps:", *(f"  - {{{line}}}" for line in lines), more]
    )


RUN = "run: {program: 'true'}"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            steps(f"name: build, {RUN}", f"name: test, {RUN}, depends_on: [builds]"),
            ["6:55: workflow.steps[1].depends_on[0]: there is no step 'builds' here: did you mean build?"],
        ),
        (
            steps(f"name: a, {RUN}", f"name: a, {RUN}"),
            ["6:12: workflow.steps[1].name: another step is named 'a' already: names are unique"],
        ),
        (
            steps(f"name: a, {RUN}", more="  output_step: b"),
            ["6:16: workflow.output_step: there is no step 'b' here: known are a"],
        ),
        (
            steps("name: a, run: {program: x, stdin_from: z}"),
            ["5:45: workflow.steps[0].run.stdin_from: there is no step 'z' here: known are a"],
        ),
        (
            steps(f"name: a, {RUN}, depends_on: [c]", f"name: b, {RUN}, depends_on: [a]", "name: c, run: "
                  "{program: x, stdin_from: b}"),
            ["5:12: workflow.steps[0].name: depends on itself, so it can never start: a -> c -> b -> a"],
        ),
        (
            steps(f"name: a, {RUN}, depends_on: [a]"),
            ["5:12: workflow.steps[0].name: depends on itself, so it can never start: a -> a"],
        ),
        (
            steps(f"name: a, {RUN}", f"name: b, {RUN}, depends_on: [a, a]"),
            ["6:55: workflow.steps[1].depends_on[1]: the step 'a' is listed twice: remove one"],
        ),
        (
            steps(f"name: a, {RUN}, mode: service, timeout_secs: 5"),
            ["5:54: workflow.steps[0].timeout_secs: mode is service, which has no time limit: remove one"],
        ),
        (steps(), ["4:3: workflow: needs the field steps"]),
        ("kind: workflow\nname: w\nworkflow: {steps: []}", ["3:19: workflow.steps: must not be empty"]),
        ("kind: workflow\nname: w", ["1:1: kind is workflow: write the field workflow, which says what runs"]),
        (
            "kind: sandbox\nname: w\nagent: {prompt: x}",
            ["3:1: agent: kind is sandbox: remove the field agent, or change kind"],
        ),
        (
            "kind: agent\nname: w\nagent: {prompt: ' '}",
            ["3:17: agent.prompt: must not be empty, unless mode is interactive"],
        ),
        (
            "kind: agent\nname: w\nagent: {prompt: x, mode: service, timeout_secs: 5}\n"
            "llm: {provider: claude, credential_proxy: true}",
            [
                "3:1: agent: mode is service, which needs the field output_file",
                "3:35: agent.timeout_secs: mode is service, which has no time limit: remove it",
                "4:25: llm.credential_proxy: mode is service, which cannot have it: remove it",
            ],
        ),
        (
            "kind: agent\nname: w\nagent: {mode: interactive, timeout_secs: 5}",
            ["3:28: agent.timeout_secs: mode is interactive, which has no time limit: remove it"],
        ),
    ],
)  # fmt: skip
def test_a_rule_that_is_broken_is_told_with_its_place(text: str, faults: list[str]) -> None:
    assert faults_of(text) == faults


def pipeline(stages: list[dict[str, Any]], **more: Any) -> str:
    boxes = [{"name": name, "prompt": "x"} for name in ("a", "b", "c")]
    boxes[0] |= more
    return json.dumps({"kind": "pipeline", "name": "p", "pipeline": {"boxes": boxes, "stages": stages}})


def test_a_pipelines_stages_use_each_box_once_and_begin_with_one() -> None:
    first: dict[str, Any] = {"type": "box", "name": "a"}
    assert parse(pipeline([first, {"type": "fan_out", "boxes": ["b", "c"]}]).encode(), file="p").spec.pipeline
    wrong: list[tuple[list[dict[str, Any]], str]] = [
        ([{"type": "fan_out", "boxes": ["b", "c"]}], "stages[0].type: is fan_out, which cannot come first"),
        ([first, first], "stages[1].name: the box 'a' is used in the stages already"),
        ([first, {"type": "fan_out", "boxes": ["b", "b"]}], "stages[1].boxes[1]: the box 'b' is used"),
        ([first, {"type": "box", "name": "d"}], "stages[1].name: there is no box 'd' here: known are a, b, c"),
        ([first, {"type": "fan_out", "boxes": []}], "stages[1].boxes: must not be empty"),
        ([{"type": "fanout", "boxes": ["a"]}], "stages[0].type: must be box or fan_out"),
    ]
    for stages, fault in wrong:
        (found,) = faults_of(pipeline(stages), file="p.json")
        assert f"pipeline.{fault}" in found


def test_a_pipelines_inputs_and_outputs_have_names_that_exist_once() -> None:
    doubled = [{"name": "o"}, {"name": "o"}]
    (found,) = faults_of(pipeline([], outputs=doubled), file="p")
    assert "boxes[0].outputs[1].name: another output is named 'o' already" in found
    (found,) = faults_of(pipeline([], inputs=[{"from": "q"}]), file="p")
    assert "boxes[0].inputs[0].from: there is no box or output 'q' here: known are a, b, c" in found
