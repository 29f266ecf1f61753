"""What cannot be run yet is refused with its place, and what has no effect is told."""

from __future__ import annotations

import pytest

from runs.engine.environment import Environment
from runs.engine.support import unsupported, without_effect
from runs.specs.document import parse
from tests.runs.specs.examples import AGENT, PIPELINE, SANDBOX, WORKFLOW


def refusals(text: str) -> list[str]:
    document = parse(text.encode(), file="s.yaml")
    return [str(fault) for fault in document.place(unsupported(document.spec))]


def test_workflows_and_sandboxes_can_be_run() -> None:
    assert refusals(WORKFLOW) == []
    assert refusals(SANDBOX) == []


@pytest.mark.parametrize("text", [AGENT, PIPELINE])
def test_agents_and_pipelines_cannot_be_run_yet(text: str) -> None:
    assert "which cannot be run yet: kinds that can are workflow, sandbox" in refusals(text)[0]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("kernel: /k", "sandbox.kernel: every machine has Casemate's own kernel: remove it"),
        ("initramfs: /i", "sandbox.initramfs: every machine has Casemate's own kernel: remove it"),
        ("guest_image: x", "sandbox.guest_image: every machine has Casemate's own kernel: remove it"),
        ("mounts: [{host: a, guest: /b}]", "sandbox.mounts: cannot be mounted yet: copy files with casemate cp"),
        ("{snapshot: a, image: b}", "sandbox.image: is the snapshot's if there is one: remove it"),
    ],
)
def test_a_machine_that_cannot_be_made_as_it_says_is_refused(line: str, refusal: str) -> None:
    assert refusals(f"kind: sandbox\nname: x\nsandbox:\n  {line}\n") == [refusal]


def test_what_voidbox_ignores_is_told_and_refuses_nothing() -> None:
    text = "kind: sandbox\nname: x\nsandbox: {guest_image: '', mounts: []}\nobserve: {traces: true}\n"
    document = parse(text.encode(), file="s.yaml")
    assert refusals(text) == []
    (told,) = document.place(without_effect(document.spec))
    assert told.at("s.yaml") == ("s.yaml:4:1: observe: has no effect: the server decides what it traces and where to")


def test_an_empty_variable_is_the_hosts() -> None:
    found = Environment.of({"A": "", "B": "b", "C": ""}, {"A": "host", "B": "host"})
    assert (found.variables, found.taken, found.missing) == ({"A": "host", "B": "b"}, ("A",), ("C",))
    assert Environment.of({"A": ""}, {"A": ""}).variables == {"A": ""}
