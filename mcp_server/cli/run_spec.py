"""`casemate run`: run a spec in a machine of the server, which is deleted at the end."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from runs.engine.environment import Environment
from runs.engine.machine import STEP_TIMEOUT_S, MachineError
from runs.engine.support import unsupported, without_effect
from runs.engine.workflow import Workflow
from runs.specs.document import load

from ..observability import logs
from .client_config import merged
from .console import CliError, err, note, run
from .forms import FileOption, Form, LogLevelOption, NoBannerOption, OutputOption, form_of, reported
from .options import target_of
from .run_machine import WORKSPACE, open_machine, wanted
from .run_progress import RunProgress
from .run_result import RunResult
from .specs import warned
from .target import open_remote

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from runs.engine.report import WorkflowReport
    from runs.specs.document import Document
    from runs.specs.workflow import Step, WorkflowSection

    from .run_machine import RemoteMachine
    from .target import Target

_FAILED = 1
_INTERRUPTED = 128 + signal.SIGINT
_SLACK_S = 900
_MOST_TTL_S = 30 * 86_400
_DAY_S = 86_400


def run_spec(
    context: typer.Context,
    file: FileOption,
    given: Annotated[str, typer.Option("--input", metavar="TEXT", help="Text that precedes a workflow's output.")] = "",
    working_dir: Annotated[
        str, typer.Option("--working-dir", metavar="DIR", help="Directory of the machine in which steps start.")
    ] = WORKSPACE,
    no_banner: NoBannerOption = False,
    log_level: LogLevelOption = "",
    output: OutputOption = None,
) -> None:
    """Run a spec and print its result. Exit status 1 if it did not succeed; Ctrl-C ends the machine.

    A workflow's steps run in one machine, each as soon as the steps that it needs have succeeded. A sandbox runs until
    Ctrl-C. Progress goes to standard error.
    """
    form = form_of(context, output)
    with reported(form):
        top = context.find_root().params
        config = merged(
            os.environ,
            log_level=log_level or top.get("log_level") or "",
            no_banner=no_banner or bool(top.get("no_banner")),
        )
        logs.configure(config.log_level, "auto")
        document = load(file)
        spec = document.spec
        if refused := document.refused(unsupported(spec)):
            raise refused
        if given and spec.workflow is None:
            raise CliError(f"--input: a {spec.kind} has no output that it could precede: leave it out")
        if not working_dir.startswith("/"):
            raise CliError(f"--working-dir must be an absolute path such as {WORKSPACE}, got {working_dir[:80]!r}")
        if config.banner and form is Form.HUMAN and sys.stdin.isatty() and err.is_terminal:
            note(f"casemate {version('casemate')}: a machine of its own for every run")
        env = Environment.of(spec.sandbox.env, os.environ)
        warnings = [*config.warnings, *warned(document, without_effect(spec)), *_missing(document, env)]
        if form is Form.HUMAN:
            for warning in warnings:
                note(f"warning: {warning}")
        work = _Work(document=document, target=target_of(context), env=env, cwd=working_dir, quiet=form is Form.JSON)
        result = work.workflow(spec.workflow, given) if spec.workflow is not None else work.sandbox()
        result.show(form, warnings)
    if not result.success:
        raise typer.Exit(_FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A spec that is about to run.

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

    def workflow(self, section: WorkflowSection, given: str) -> RunResult:
        spec = self.document.spec
        progress = RunProgress(spec.kind, spec.name, [step.name for step in section.steps], quiet=self.quiet)
        workflow = Workflow(section, observe=progress.step)
        ttl_s = min(_SLACK_S + sum(_longest(step) for step in section.steps), _MOST_TTL_S)

        async def work() -> WorkflowReport:
            async with self._machine(progress, ttl_s) as machine:
                progress.machine(f"running as {machine.ref}")
                return await workflow.run(machine)

        with progress.shown():
            report = run(work)
        output = f"{given}\n".encode() + report.output if given else report.output
        return RunResult(name=spec.name, kind=spec.kind, success=report.success, output=output, steps=report.steps)

    def sandbox(self) -> RunResult:
        spec = self.document.spec
        progress = RunProgress(spec.kind, spec.name, quiet=self.quiet)
        ready = False

        async def work() -> None:
            nonlocal ready
            async with self._machine(progress, 0) as machine:
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
    async def _machine(self, progress: RunProgress, ttl_s: int) -> AsyncGenerator[RemoteMachine]:
        spec = self.document.spec
        if self.env.taken:
            progress.machine(f"gets variables of this host: {', '.join(self.env.taken)}")
        async with open_remote(self.target) as remote:
            progress.machine("starting")
            fields = wanted(spec.sandbox, self.env.variables)
            async with open_machine(remote, spec.name, fields, ttl_s=ttl_s, cwd=self.cwd) as machine:
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


def _missing(document: Document, env: Environment) -> list[str]:
    return [
        f"{document.file}: sandbox.env.{name}: is empty, and this host has no {name}: it is left out"
        for name in env.missing
    ]


def _longest(step: Step) -> int:
    once = _DAY_S if step.mode == "service" else step.timeout_secs or STEP_TIMEOUT_S
    return once * (1 + step.retries)
