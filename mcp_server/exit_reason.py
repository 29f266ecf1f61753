"""Messages about commands that were ended from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.guest.values import Outcome, ProcessInfo


def why_killed(status: Outcome | ProcessInfo, *, timeout_s: float = 0) -> str:
    """Say why a command was killed; empty if it ended by itself or was sent a signal.

    Args:
        status: The command's status.
        timeout_s: The command's time limit in seconds; 0 if unknown.
    """
    if status.timed_out:
        return f"killed: it took longer than {f'{timeout_s:g} s' if timeout_s else 'its timeout'}"
    if status.memory_kill:
        return f"out of memory: the sandbox's kernel ended {status.memory_kill}"
    return ""
