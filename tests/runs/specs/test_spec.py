"""What specs mean: their fields, and what stands for a field that is left out."""

from __future__ import annotations

import json

import pytest

from runs.specs.document import parse
from tests.runs.specs.examples import AGENT, PIPELINE, SANDBOX, WORKFLOW, YAMLS
from tests.runs.specs.faulty import faults_of


@pytest.mark.parametrize("kind", YAMLS)
def test_a_spec_means_the_same_in_yaml_and_in_json(kind: str) -> None:
    read = parse(YAMLS[kind].encode(), file="spec.yml")
    assert read.spec.kind == kind
    text = json.dumps(read.root.plain(), indent=1)
    assert parse(text.encode(), file="spec.json").spec == read.spec


def test_a_workflow_has_steps_with_programs() -> None:
    spec = parse(WORKFLOW.encode(), file="w.yaml").spec
    assert spec.workflow is not None
    gather, count, watch = spec.workflow.steps
    assert (gather.run.program, gather.run.args) == ("ls", ["-la", "/workspace"])
    assert (count.needs, count.timeout_secs, count.retries) == (("gather",), 30, 0)
    assert watch.mode == "service"
    assert spec.workflow.result_step is count
    assert spec.sandbox.env == {"LC_ALL": "C", "HOME_OF": ""}


def test_what_is_left_out_or_null_has_voidboxs_default() -> None:
    spec = parse(b"kind: sandbox\nname: x\nsandbox:\n  image: ~\n  network:\n", file="s.yaml").spec
    assert spec.api_version == "v1"
    assert (spec.sandbox.mode, spec.sandbox.memory_mb, spec.sandbox.vcpus) == ("auto", 1024, 1)
    assert (spec.sandbox.network, spec.sandbox.image, spec.sandbox.mounts) == (False, None, [])
    assert parse(SANDBOX.encode(), file="s").spec.sandbox.memory_mb == 512


def test_mounts_are_read_only_unless_they_say_otherwise() -> None:
    spec = parse(AGENT.encode(), file="a.yaml").spec
    assert [mount.mode for mount in spec.sandbox.mounts] == ["ro", "rw"]


def test_a_step_that_reads_anothers_output_depends_on_it() -> None:
    text = (
        "{kind: workflow, name: x, workflow: {steps: [{name: b, run: {program: wc, stdin_from: a}}, "
        "{name: a, run: {program: ls}}]}}"
    )
    spec = parse(text.encode(), file="w.yaml").spec
    assert spec.workflow is not None
    assert spec.workflow.steps[0].needs == ("a",)
    assert spec.workflow.result_step.name == "b"


@pytest.mark.parametrize(
    ("needs", "result"), [({"a": [], "b": ["a"], "c": ["a"]}, "c"), ({"a": ["b"], "b": []}, "a"), ({"a": []}, "a")]
)
def test_the_result_is_that_of_the_only_end_or_of_the_last_step(needs: dict[str, list[str]], result: str) -> None:
    steps = [{"name": name, "run": {"program": "true"}, "depends_on": others} for name, others in needs.items()]
    spec = parse(json.dumps({"kind": "workflow", "name": "x", "workflow": {"steps": steps}}).encode(), file="x").spec
    assert spec.workflow is not None
    assert spec.workflow.result_step.name == result


def test_skills_are_listed_with_those_that_they_belong_to() -> None:
    assert parse(AGENT.encode(), file="a.yaml").spec.skills() == [
        ("agent", "agent:claude-code"),
        ("agent", "file:./skills/review.md"),
        ("agent", "remote:owner/skills/review"),
        ("agent", "cli:jq"),
        ("agent", "mcp:search"),
        ("agent", "image:tools:1"),
        ("agent", "my-server --stdio"),
        ("agent", "inline:style"),
    ]
    assert parse(PIPELINE.encode(), file="p.yaml").spec.skills() == [("pipeline:left", "file:left.md")]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("kind: workflow", "kind: workflo", "3:7: kind: must be 'agent', 'pipeline', 'workflow' or 'sandbox', got"),
        ("api_version: v1", "api_version: v2", "2:14: api_version: must be 'v1', got 'v2'"),
        ("mode: auto", "mode: mock", "7:9: sandbox.mode: is mock, but there is no mock: its results would prove"),
        ("memory_mb: 256", "memory_mb: 1.5", "8:14: sandbox.memory_mb: must be a whole number, got 1.5"),
        ("memory_mb: 256", "memory_mb: 0", "8:14: sandbox.memory_mb: must be at least 1, got 0"),
        ("vcpus: 1", "vcpus: true", "9:10: sandbox.vcpus: must be a whole number, got true"),
        ("network: false", "network: off", "10:12: sandbox.network: must be true or false, got 'off'"),
        ("LC_ALL: C", "LC_ALL: 5", '11:17: sandbox.env.LC_ALL: must be a text, got 5: write it in quotes, "5"'),
        ("LC_ALL: C", "LC-ALL: C", "11:8: sandbox.env: has 'LC-ALL', which is not a name of a variable"),
        (
            "memory_mb: 256",
            "memory: 256",
            "8:3: sandbox.memory: there is no field 'memory' here: did you mean memory_mb",
        ),
        ("stdin_from: gather", "stdin: gather", "22:9: workflow.steps[1].run.stdin: there is no field 'stdin' here"),
        ("program: wc", "program: ''", "20:18: workflow.steps[1].run.program: must not be empty"),
        ("timeout_secs: 30", "timeout_secs: 0", "23:21: workflow.steps[1].timeout_secs: must be at least 1, got 0"),
        ("name: count-files", "name: ''", "4:7: name: must not be empty"),
        ("name: count-files", 'name: "a\\nb"', "4:7: name: must be on one line, without control characters"),
        ("name: count-files", "", "2:1: needs the field name"),
        ("    - name: gather", "    - names: gather", "15:7: workflow.steps[0].names: there is no field 'names' here"),
    ],
)
def test_a_value_that_is_wrong_is_told_with_its_place(old: str, new: str, fault: str) -> None:
    assert old in WORKFLOW
    faults = faults_of(WORKFLOW.replace(old, new))
    assert any(found.startswith(fault) for found in faults), faults


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("mode: rw", "mode: wr", "12:50: sandbox.mounts[1].mode: must be 'ro' or 'rw', got 'wr'"),
        (
            "guest: /workspace/src",
            "guest: src",
            "11:28: sandbox.mounts[0].guest: must be an absolute path of the guest",
        ),
        ("provider: custom", "provider: lmstudio", "14:13: llm.provider: must be 'claude', 'claude-personal', 'codex'"),
        ("- cli:jq", "- clj:jq", "28:7: agent.skills[3]: must be one of agent:…, file:…, remote:…, cli:…, mcp:…"),
        (
            "name: style,",
            "name: style, url: x,",
            "32:21: agent.skills[7].url: there is no field 'url' here: known are name, content",
        ),
        ("readonly: true", "readonly: yes", "30:55: agent.skills[5].readonly: must be true or false, got 'yes'"),
        (
            "command: my-server",
            "commands: my-server",
            "31:8: agent.skills[6].commands: there is no field 'commands' here",
        ),
    ],
)
def test_agents_have_skills_mounts_and_providers_that_exist(old: str, new: str, fault: str) -> None:
    assert old in AGENT
    faults = faults_of(AGENT.replace(old, new))
    assert any(found.startswith(fault) for found in faults), faults


def test_all_faults_are_told_at_once_in_the_files_order() -> None:
    text = WORKFLOW.replace("vcpus: 1", "vcpu: 1").replace("program: wc", "program: 7").replace("kind: workflow", "")
    assert [fault.partition(": ")[0] for fault in faults_of(text)] == ["2:1", "9:3", "20:18"]


def test_at_most_a_hundred_faults_are_told() -> None:
    assert len(faults_of("kind: sandbox\nname: x\n" + "".join(f"field{n}: 1\n" for n in range(2000)))) == 100
