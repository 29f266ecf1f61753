"""The result of a run, as VoidBox prints it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .console import out, plain, run, show_json, write_raw
from .forms import Form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runs.engine.report import StepReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run that has ended."""

    name: str
    kind: str
    success: bool
    output: bytes = b""
    steps: tuple[StepReport, ...] = ()

    def show(self, form: Form, warnings: Sequence[str] = ()) -> None:
        """Print it: for people as lines, with the output unchanged below them; for programs with the warnings."""
        if form is Form.JSON:
            show_json(self._object() | ({"warnings": list(warnings)} if warnings else {}))
            return
        lines = {
            "name": plain(self.name),
            "kind": self.kind,
            "success": str(self.success).lower(),
            "stages": len(self.steps),
            "cost": f"{0:.6f}",
            "tokens": "0 in / 0 out",
        }
        for name, value in lines.items():
            out.print(f"{name}: {value}", markup=False)
        if self.output:
            out.print("output:", markup=False)
            run(lambda: write_raw("stdout", self.output))

    def _object(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "success": self.success,
            "output": self.output.decode("utf-8", "replace"),
            "stages": len(self.steps),
            "total_cost_usd": 0.0,
            "input_tokens": 0,
            "output_tokens": 0,
            "stage_states": [_step(step) for step in self.steps],
        }


def _step(step: StepReport) -> dict[str, Any]:
    took = None if step.started_ms is None or step.completed_ms is None else step.completed_ms - step.started_ms
    return {
        "stage_name": step.name,
        "depends_on": list(step.needs),
        "status": str(step.status),
        "stage_attempt": step.attempt,
        "started_at": _moment(step.started_ms),
        "completed_at": _moment(step.completed_ms),
        "duration_ms": took,
        "exit_code": step.exit_code,
        "reason": step.reason,
    }


def _moment(epoch_ms: int | None) -> str | None:
    return None if epoch_ms is None else datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds")
