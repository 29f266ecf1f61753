"""Why a command ended that did not end by itself, in words for whoever ran it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.guest.values import Outcome, ProcessInfo


def why_killed(standing: Outcome | ProcessInfo, *, timeout_s: float = 0) -> str:
    """What ended a command from outside, and nothing for one that ended by itself or was sent a signal.

    Args:
        standing: How the command stands.
        timeout_s: The limit that it had, in seconds; 0 if that is not known.
    """
    if standing.timed_out:
        return f"killed: it took longer than {f'{timeout_s:g} s' if timeout_s else 'its timeout'}"
    if standing.memory_kill:
        return f"out of memory: the sandbox's kernel ended {standing.memory_kill}"
    return ""
