"""Progress of a run on standard error: a line for each change, and on a terminal a bar below them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from runs.engine.report import Status

from .console import err, plain

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from runs.engine.report import StepReport

_DONE = {Status.SUCCEEDED, Status.FAILED, Status.SKIPPED}


class RunProgress:
    """Shows the progress of one run.

    Args:
        kind: The spec's kind.
        name: The spec's name.
        steps: The names of its steps, in the file's order.
        quiet: Whether to show nothing.
    """

    def __init__(self, kind: str, name: str, steps: Sequence[str] = (), *, quiet: bool = False) -> None:
        self._prefix = f"[{kind}:{name}]"
        self._machine = f"[vm:{name}]"
        self._numbers = {step: number for number, step in enumerate(steps, 1)}
        self._quiet = quiet
        self._bar: Progress | None = None
        self._done = 0

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show a bar until the block ends, if standard error is a terminal."""
        if self._quiet or not err.is_terminal or not self._numbers:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True) as self._bar:
            self._bar.add_task(escape(plain(self._prefix)), total=len(self._numbers))
            yield
        self._bar = None

    def machine(self, text: str) -> None:
        """Say what happens to the machine."""
        self._line(f"{self._machine} {text}")

    def step(self, report: StepReport) -> None:
        """Say how a step changed."""
        if report.status in _DONE:
            self._done += 1
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)
        number = f"step {self._numbers[report.name]}/{len(self._numbers)}"
        self._line(f"{self._prefix} {number} {report.name}: {_change(report)}")

    def _line(self, text: str) -> None:
        if not self._quiet:
            err.print(plain(text), markup=False)


def _change(report: StepReport) -> str:
    match report.status:
        case Status.RUNNING if report.attempt > 1:
            return f"attempt {report.attempt}, after {report.reason}"
        case Status.SUCCEEDED:
            seconds = ((report.completed_ms or 0) - (report.started_ms or 0)) / 1000
            return f"succeeded in {seconds:.1f} s"
        case Status.FAILED | Status.SKIPPED:
            return f"{report.status}: {report.reason}"
        case _:
            return str(report.status)
