"""The JSON form of a finished command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_server.shapes import filled
from vmm.errors import LinkTimeout

from ..exit_reason import why_killed
from .shapes.commands import OutcomeDetails, OutcomeFields, OutcomeObject

if TYPE_CHECKING:
    from vmm.guest.values import Captured, Outcome


def outcome_object(outcome: Outcome, *, timeout_s: float = 0) -> OutcomeObject:
    """Convert a finished command to JSON: VoidRun's three fields, and those of `outcome_fields`.

    Args:
        outcome: The command's outcome.
        timeout_s: Its time limit in seconds; 0 if unknown.

    Raises:
        LinkTimeout: The command is still running, although its time limit has passed.
    """
    fields = outcome_fields(outcome)
    stdout, stderr = _text(outcome.stdout), _text(outcome.stderr)
    lost = {"stdout": outcome.stdout.dropped, "stderr": outcome.stderr.dropped}
    return {"stdout": stdout, "stderr": stderr + notices(outcome, stderr, lost, timeout_s), **fields}


def outcome_fields(outcome: Outcome) -> OutcomeFields:
    """Return the fields but for the output: the exit code, whether the command or its output was cut, and what the
    sandbox's policy refused meanwhile.

    Raises:
        LinkTimeout: The command is still running, although its time limit has passed.
    """
    if outcome.exit_code is None:
        raise LinkTimeout(f"Process {outcome.pid} did not end in time", hint="Look at it with commands/list")
    optional: OutcomeDetails = {
        "timedOut": outcome.timed_out,
        "truncated": bool(outcome.stdout.dropped + outcome.stderr.dropped),
        "outOfMemory": bool(outcome.memory_kill),
        "network": outcome.network,
    }
    return {"exitCode": outcome.exit_code, **filled(optional)}


def notices(outcome: Outcome, stderr: str, lost: dict[str, int], timeout_s: float) -> str:
    """Return the lines that follow a command's stderr, which most clients show, while they know no further fields.

    Args:
        outcome: The command's outcome.
        stderr: The end of its stderr.
        lost: Bytes that are missing, by stream.
        timeout_s: Its time limit in seconds; 0 if unknown.
    """
    told = [f"{count} bytes of {name} left out" for name, count in lost.items() if count]
    if why := why_killed(outcome, timeout_s=timeout_s):
        told.append(why)
    lines = "".join(f"[{line}]\n" for line in told)
    return f"\n{lines}" if lines and stderr and not stderr.endswith("\n") else lines


def _text(captured: Captured) -> str:
    parts = (captured.head, captured.tail) if captured.dropped else (captured.data(),)
    return "".join(part.decode("utf-8", "replace") for part in parts)
