"""Progress of image builds: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from .console import err

if TYPE_CHECKING:
    from collections.abc import Generator

    from vmm.images.progress import Progress


@contextmanager
def shown_progress() -> Generator[Progress]:
    """Yield a progress callback for a build and show its steps."""
    if not err.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=err) as bars:
        task = bars.add_task("Checking images", total=None)

        def update(step: str, done: int, total: int) -> None:
            bars.update(task, description=step, completed=done, total=total)

        yield update


class _Lines:
    """Prints one line per stage: a line per package would be too many."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Print the step's stage if it differs from the last one."""
        stage = step.partition(":")[0]
        if stage != self._last:
            self._last = stage
            err.print(f"{stage} ({100 * done // max(total, 1)} %)", markup=False)
