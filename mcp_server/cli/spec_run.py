"""One run of a spec, from its file to its result."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from runs.engine.environment import Environment
from runs.engine.machine import STEP_TIMEOUT_S, MachineError
from runs.engine.support import unsupported, without_effect
from runs.engine.workflow import Workflow
from runs.specs.document import load

from .console import CliError, run
from .run_machine import open_machine, wanted
from .run_progress import RunProgress
from .run_result import RunResult
from .specs import warned
from .target import open_remote

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from runs.engine.report import WorkflowReport
    from runs.specs.document import Document
    from runs.specs.workflow import WorkflowSection

    from .run_machine import RemoteMachine
    from .target import Target

_INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecRun:
    """A spec that can be run.

    Attributes:
        document: The spec.
        target: The server.
        env: The variables of all programs.
        cwd: The directory in which programs start.
        quiet: Whether to show no progress.
    """

    document: Document
    target: Target
    env: Environment
    cwd: str
    quiet: bool

    @classmethod
    def of(cls, file: Path, target: Target, *, cwd: str, quiet: bool) -> SpecRun:
        """Read a spec that can be run.

        Raises:
            SpecRefused: It is not valid, or says what cannot be done.
        """
        document = load(file)
        if refused := document.refused(unsupported(document.spec)):
            raise refused
        env = Environment.of(document.spec.sandbox.env, os.environ)
        return cls(document=document, target=target, env=env, cwd=cwd, quiet=quiet)

    def warnings(self) -> list[str]:
        """Return what the spec says in vain."""
        missing = [
            f"{self.document.file}: sandbox.env.{name}: is empty, and this host has no {name}: it is left out"
            for name in self.env.missing
        ]
        return [*warned(self.document, without_effect(self.document.spec)), *missing]

    def result(self, given: str) -> RunResult:
        """Run it to its end.

        Args:
            given: Text that precedes a workflow's output; may be empty.

        Raises:
            CliError: The machine could not be made or was lost, or there is text and nothing that it could precede.
        """
        spec = self.document.spec
        if spec.workflow is not None:
            return self._workflow(spec.workflow, given)
        if given:
            raise CliError(f"--input: a {spec.kind} has no output that it could precede: leave it out")
        return self._sandbox()

    def _workflow(self, section: WorkflowSection, given: str) -> RunResult:
        spec = self.document.spec
        progress = RunProgress(spec.kind, spec.name, [step.name for step in section.steps], quiet=self.quiet)
        workflow = Workflow(section, observe=progress.step)

        async def work() -> WorkflowReport:
            async with self._machine(progress) as machine:
                progress.machine(f"running as {machine.ref}")
                return await workflow.run(machine)

        with progress.shown():
            report = run(work)
        output = f"{given}\n".encode() + report.output if given else report.output
        return RunResult(name=spec.name, kind=spec.kind, success=report.success, output=output, steps=report.steps)

    def _sandbox(self) -> RunResult:
        spec = self.document.spec
        progress = RunProgress(spec.kind, spec.name, quiet=self.quiet)
        ready = False

        async def work() -> None:
            nonlocal ready
            async with self._machine(progress) as machine:
                await _check(machine)
                progress.machine(
                    f"running as {machine.ref}: casemate shell {machine.ref} opens a terminal; Ctrl-C ends it"
                )
                ready = True
                await machine.watch()

        try:
            run(work)
        except typer.Exit as ended:
            if not (ready and ended.exit_code == _INTERRUPTED):  # Ctrl-C is how a sandbox is meant to end
                raise
        return RunResult(name=spec.name, kind=spec.kind, success=True)

    @asynccontextmanager
    async def _machine(self, progress: RunProgress) -> AsyncGenerator[RemoteMachine]:
        spec = self.document.spec
        if self.env.taken:
            progress.machine(f"gets variables of this host: {', '.join(self.env.taken)}")
        async with open_remote(self.target) as remote:
            progress.machine("starting")
            fields = wanted(spec.sandbox, self.env.variables)
            async with open_machine(remote, spec.name, fields, cwd=self.cwd) as machine:
                yield machine


async def _check(machine: RemoteMachine) -> None:
    async def nothing(_stream: str, _data: bytes) -> None:
        return

    try:
        ended = await machine.run(["echo", "ready"], stdin=b"", timeout_s=STEP_TIMEOUT_S, sink=nothing)
    except MachineError as error:
        raise CliError(f"The machine does not answer: {error}") from None
    if ended.exit_code:
        raise CliError(f"The machine does not work: echo ended with status {ended.exit_code}")
