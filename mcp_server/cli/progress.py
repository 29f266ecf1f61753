"""Progress of image builds: bars on a terminal, plain lines elsewhere."""

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
    """A callback for a build, whose steps are shown while the block lasts."""
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
        task = bars.add_task("Looking at the images", total=None)

        def tell(step: str, done: int, total: int) -> None:
            bars.update(task, description=step, completed=done, total=total)

        yield tell


class _Lines:
    """A line for each new stage; the packages within one would fill pages."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Write the stage of the step, unless it is the last one still."""
        stage = step.partition(":")[0]
        if stage != self._last:
            self._last = stage
            err.print(f"{stage} ({100 * done // max(total, 1)} %)", markup=False)
