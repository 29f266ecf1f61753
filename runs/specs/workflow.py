"""`workflow`: programs that run in one machine, each after those that it depends on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .model import Name, Seconds, SpecModel, Text

MOST_RETRIES = 10
MOST_STEPS = 1000


class Program(SpecModel):
    """A program to start.

    Attributes:
        program: Its name or path.
        args: Its arguments.
        stdin_from: The step whose output it reads; that step comes first.
    """

    program: Text
    args: list[str] = Field(default_factory=list[str])
    stdin_from: Name | None = None


class Step(SpecModel):
    """One program of a workflow.

    Attributes:
        name: Its name, unique in the workflow.
        run: The program.
        depends_on: Steps that must succeed before it starts.
        mode: `service` for a program without a time limit.
        timeout_secs: Seconds until it is killed.
        retries: How often it is started again after a failure; VoidBox has that in its library only.
    """

    name: Name
    run: Program
    depends_on: list[Name] = Field(default_factory=list[Name])
    mode: Literal["task", "service"] = "task"
    timeout_secs: Seconds | None = None
    retries: Annotated[int, Field(ge=0, le=MOST_RETRIES)] = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps that come first, each once: those that it names, and the one that it reads from."""
        read = [self.run.stdin_from] if self.run.stdin_from is not None else []
        return tuple(dict.fromkeys([*self.depends_on, *read]))


class WorkflowSection(SpecModel):
    """Steps, and the one whose output is the workflow's."""

    steps: Annotated[list[Step], Field(min_length=1, max_length=MOST_STEPS)]
    output_step: Name | None = None

    @property
    def result_step(self) -> Step:
        """The step whose output is the workflow's: the named one, the only one without dependents, or the last."""
        if self.output_step is not None:
            return next(step for step in self.steps if step.name == self.output_step)
        needed = {name for step in self.steps for name in step.needs}
        ends = [step for step in self.steps if step.name not in needed]
        return ends[0] if len(ends) == 1 else self.steps[-1]
