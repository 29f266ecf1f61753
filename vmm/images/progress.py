"""Progress of a build: steps with a fraction, added up over the parts of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Report = Callable[[str, float], None]
"""Receives the step, described for a user, and the fraction of the part that is done (0 to 1)."""

UNITS = 100
"""Progress units for one second of expected work."""


class Progress(Protocol):
    """Shows progress."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show a step.

        Args:
            step: What is being done, described for a user.
            done: Units of work that are done; never decreases within one build.
            total: Units of the whole build; only the ratio matters.
        """
        ...


def no_progress(step: str, done: int, total: int) -> None:
    """Show nothing."""
    del step, done, total


@dataclass(slots=True)
class Meter:
    """Adds up the parts of one build.

    Attributes:
        progress: Receives the reports.
        total: Units of all parts.
        base: Units of the parts that are done.
        seen: The highest value reported, so that progress never goes back.
    """

    progress: Progress
    total: int
    base: int = 0
    seen: int = 0

    def part(self, weight: int) -> Report:
        """Return the reporter of one part, whose expected time is `weight` units."""
        base = self.base

        def report(step: str, fraction: float) -> None:
            self._show(step, base + int(weight * min(max(fraction, 0.0), 1.0)))

        return report

    def finish(self, step: str, weight: int) -> None:
        """Count one part as done."""
        self.base += weight
        self._show(step, self.base)

    def _show(self, step: str, done: int) -> None:
        self.seen = min(max(self.seen, done), self.total)
        self.progress(step, self.seen, self.total)
