"""Rules between the fields of a spec, which its models cannot see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .faults import Path
from .graph import find_cycle
from .names import unknown
from .pipeline import BoxStage
from .spec import SECTIONS

if TYPE_CHECKING:
    from .agent import AgentSection
    from .pipeline import Box, PipelineSection
    from .spec import Spec
    from .workflow import WorkflowSection


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that a spec breaks; `name` means the name of the field at the path, not its value."""

    path: Path
    message: str
    name: bool = False


def broken_rules(spec: Spec) -> Iterator[Problem]:
    """Yield every rule that the spec breaks."""
    for section in SECTIONS:
        given = getattr(spec, section) is not None
        if section == spec.kind and not given:
            yield Problem((), f"kind is {spec.kind}: write the field {section}, which says what runs")
        elif section != spec.kind and given:
            yield Problem((section,), f"kind is {spec.kind}: remove the field {section}, or change kind", name=True)
    if spec.agent is not None:
        yield from _agent(spec.agent, proxied=spec.llm is not None and spec.llm.credential_proxy)
    if spec.pipeline is not None:
        yield from _pipeline(spec.pipeline)
    if spec.workflow is not None:
        yield from _workflow(spec.workflow)


def _agent(agent: AgentSection, *, proxied: bool) -> Iterator[Problem]:
    if not agent.prompt.strip() and agent.mode != "interactive":
        yield Problem(("agent", "prompt"), "must not be empty, unless mode is interactive")
    if agent.mode != "task" and agent.timeout_secs is not None:
        yield Problem(("agent", "timeout_secs"), f"mode is {agent.mode}, which has no time limit: remove it", name=True)
    if agent.mode == "service":
        if agent.output_file is None:
            yield Problem(("agent",), "mode is service, which needs the field output_file", name=True)
        if proxied:
            yield Problem(("llm", "credential_proxy"), "mode is service, which cannot have it: remove it", name=True)


def _pipeline(pipeline: PipelineSection) -> Iterator[Problem]:
    top: Path = ("pipeline",)
    names = [box.name for box in pipeline.boxes]
    yield from _repeated([(*top, "boxes", number, "name") for number in range(len(names))], names, "box")
    handed_on = {text for box in pipeline.boxes for text in _handed_on(box)}
    for number, box in enumerate(pipeline.boxes):
        at: Path = (*top, "boxes", number)
        outputs = [output.name for output in box.outputs]
        yield from _repeated([(*at, "outputs", place, "name") for place in range(len(outputs))], outputs, "output")
        for place, taken in enumerate(box.inputs):
            if taken.source not in handed_on:
                yield Problem((*at, "inputs", place, "from"), unknown("box or output", taken.source, sorted(handed_on)))
    used: set[str] = set()
    for number, stage in enumerate(pipeline.stages or ()):
        at = (*top, "stages", number)
        if isinstance(stage, BoxStage):
            members = [((*at, "name"), stage.name)]
        else:
            members = [((*at, "boxes", place), name) for place, name in enumerate(stage.boxes)]
            if number == 0:
                yield Problem((*at, "type"), "is fan_out, which cannot come first: put a box before it")
        for path, name in members:
            if name not in names:
                yield Problem(path, unknown("box", name, names))
            elif name in used:
                yield Problem(path, f"the box {name!r} is used in the stages already: a box runs once")
            used.add(name)


def _handed_on(box: Box) -> Iterator[str]:
    """Yield all ways to name what a box hands on."""
    yield box.name
    for output in box.outputs:
        yield output.name
        yield f"{box.name}.{output.name}"
        yield f"{box.name}/{output.name}"


def _workflow(workflow: WorkflowSection) -> Iterator[Problem]:
    top: Path = ("workflow", "steps")
    names = [step.name for step in workflow.steps]
    yield from _repeated([(*top, number, "name") for number in range(len(names))], names, "step")
    for number, step in enumerate(workflow.steps):
        at: Path = (*top, number)
        for place, other in enumerate(step.depends_on):
            path = (*at, "depends_on", place)
            if other not in names:
                yield Problem(path, unknown("step", other, names))
            elif other in step.depends_on[:place]:
                yield Problem(path, f"the step {other!r} is listed twice: remove one")
        read = step.run.stdin_from
        if read is not None and read not in names:
            yield Problem((*at, "run", "stdin_from"), unknown("step", read, names))
        if step.mode == "service" and step.timeout_secs is not None:
            yield Problem((*at, "timeout_secs"), "mode is service, which has no time limit: remove one", name=True)
    cycle = find_cycle({step.name: step.needs for step in workflow.steps})
    if cycle:
        number = names.index(cycle[0])
        yield Problem(
            (*top, number, "name"), f"depends on itself, so it can never start: {' -> '.join(map(_short, cycle))}"
        )
    if workflow.output_step is not None and workflow.output_step not in names:
        yield Problem(("workflow", "output_step"), unknown("step", workflow.output_step, names))


def _repeated(paths: Sequence[Path], names: Sequence[str], what: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name in seen:
            yield Problem(paths[number], f"another {what} is named {name!r} already: names are unique")
        seen.add(name)


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}…"
