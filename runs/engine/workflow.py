"""Runs a workflow in one machine: each step as soon as those that it needs have succeeded, side by side with others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from .machine import STEP_TIMEOUT_S, MachineError
from .output import MOST_BYTES, KeptOutput, OutputTooLarge
from .report import Status, StepReport, WorkflowReport

if TYPE_CHECKING:
    from ..specs.workflow import Step, WorkflowSection
    from .machine import Machine

MOST_PARALLEL = 16
"""How many steps run side by side; services do not count."""

Observer = Callable[[StepReport], None]
"""Told a step's report at every change of its status and at every new attempt."""


def _nobody(_report: StepReport) -> None:
    return


class Workflow:
    """One run of a workflow.

    Args:
        section: The steps, which are valid.
        observe: Told about each step.
        now_ms: The time in milliseconds since the epoch.
    """

    def __init__(
        self,
        section: WorkflowSection,
        *,
        observe: Observer = _nobody,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._section = section
        self._observe = observe
        self._now_ms = now_ms
        self._reports = {step.name: StepReport(name=step.name, needs=step.needs) for step in section.steps}
        self._ended = {step.name: anyio.Event() for step in section.steps}
        self._slots = anyio.CapacityLimiter(MOST_PARALLEL)
        self._read = {section.result_step.name, *(source for step in section.steps if (source := _source(step)))}

    async def run(self, machine: Machine) -> WorkflowReport:
        """Run all steps to their end. Steps that fail make those that need them skipped; the others go on."""
        async with anyio.create_task_group() as tasks:
            for step in self._section.steps:
                tasks.start_soon(self._step, step, machine)
        last = self._reports[self._section.result_step.name]
        return WorkflowReport(
            success=last.status is Status.SUCCEEDED, output=last.stdout, steps=tuple(self._reports.values())
        )

    async def _step(self, step: Step, machine: Machine) -> None:
        report = self._reports[step.name]
        for name in step.needs:
            await self._ended[name].wait()
        failed = next((name for name in step.needs if self._reports[name].status is not Status.SUCCEEDED), None)
        if failed is not None:
            self._finish(report, Status.SKIPPED, f'dependency "{failed}" {self._reports[failed].status}')
            return
        source = _source(step)
        stdin = self._reports[source].stdout if source else b""
        if step.mode == "service":
            await self._attempts(step, machine, stdin)
        else:
            async with self._slots:
                await self._attempts(step, machine, stdin)

    async def _attempts(self, step: Step, machine: Machine, stdin: bytes) -> None:
        report = self._reports[step.name]
        while True:
            report.attempt += 1
            report.status = Status.RUNNING
            report.started_ms = self._now_ms() if report.started_ms is None else report.started_ms
            self._observe(report)
            reason, final = await self._attempt(step, machine, stdin)
            if not reason:
                self._finish(report, Status.SUCCEEDED, "")
                return
            report.reason = reason
            if final or report.attempt > step.retries:
                self._finish(report, Status.FAILED, reason)
                return

    async def _attempt(self, step: Step, machine: Machine, stdin: bytes) -> tuple[str, bool]:
        """Run a step's program once; return why it failed, empty if it did not, and whether to leave it at that."""
        report = self._reports[step.name]
        output = KeptOutput(whole=step.name in self._read)
        timeout_s = 0 if step.mode == "service" else step.timeout_secs or STEP_TIMEOUT_S
        report.exit_code, report.stdout = None, b""
        try:
            ended = await machine.run(
                (step.run.program, *step.run.args), stdin=stdin, timeout_s=timeout_s, sink=output.take
            )
        except MachineError as error:
            return str(error), True
        except OutputTooLarge:
            return f"its output is larger than {MOST_BYTES >> 20} MiB: write it to a file instead", True
        report.exit_code, report.stdout = ended.exit_code, output.stdout
        if ended.reason:
            return ended.reason, False
        if ended.exit_code:
            words = output.last_words()
            return f"exit status {ended.exit_code}{f': {words}' if words else ''}", False
        return "", False

    def _finish(self, report: StepReport, status: Status, reason: str) -> None:
        report.status, report.reason, report.completed_ms = status, reason, self._now_ms()
        self._observe(report)
        self._ended[report.name].set()


def _source(step: Step) -> str | None:
    """Return the step whose output a step reads: the one that it names, or else the first that it depends on."""
    return step.run.stdin_from or next(iter(step.depends_on), None)
