"""How a run and its steps ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """States of a step, as VoidBox's daemon names them."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(slots=True, kw_only=True)
class StepReport:
    """A step of a run.

    Attributes:
        name: Its name.
        needs: The steps that came first.
        status: Its state.
        attempt: How often it was started.
        exit_code: The status of its program in the last attempt; None if it was not started, or its end is not known.
        reason: Why it failed or was skipped; empty otherwise.
        started_ms: When it was first started, in milliseconds since the epoch.
        completed_ms: When it ended or was skipped, in milliseconds since the epoch.
        stdout: Its output, all of it if others read it.
    """

    name: str
    needs: tuple[str, ...]
    status: Status = Status.QUEUED
    attempt: int = 0
    exit_code: int | None = None
    reason: str = ""
    started_ms: int | None = None
    completed_ms: int | None = None
    stdout: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowReport:
    """A workflow that has ended: whether the result's step succeeded, its output, and all steps in the file's order."""

    success: bool
    output: bytes
    steps: tuple[StepReport, ...]
