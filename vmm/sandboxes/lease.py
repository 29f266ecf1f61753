"""The timers of a sandbox as arithmetic on its record: time to live, sleep, idleness. No I/O; time is an argument.

Time to live counts down only while the sandbox does not sleep. While it counts, the record holds the end
(`expires_ms`); while the sandbox sleeps, it holds the remaining time (`left_ms`). None of these functions changes the
state: `Sandbox.moved` does.
"""

from __future__ import annotations

from dataclasses import replace

from storage.shown import shown

from ..errors import Conflict, InvalidInput
from .sandbox import Sandbox, State

_DAY_S = 86_400
MAX_TTL_S = 30 * _DAY_S
MAX_IDLE_S = 30 * _DAY_S

_LIVING = frozenset({State.CREATING, State.RUNNING, State.ASLEEP})
_COUNTING = frozenset({State.RUNNING, State.KILLED, State.ERROR})


def check_ttl(ttl_s: int) -> None:
    """Refuse a time to live that is out of range; 0 means no limit.

    Raises:
        InvalidInput: It is negative or longer than 30 days.
    """
    _check("ttl", ttl_s, MAX_TTL_S, "0 means no limit; you can renew it at any time")


def check_idle(idle_s: int) -> None:
    """Refuse an idle limit that is out of range; 0 means never.

    Raises:
        InvalidInput: It is negative or longer than 30 days.
    """
    _check("idle", idle_s, MAX_IDLE_S, "0 means never")


def renewed(sandbox: Sandbox, ttl_s: int, now_ms: int) -> Sandbox:
    """Set how many seconds the sandbox lives from now on, longer or shorter than before; 0 removes the limit.

    For a sandbox that sleeps, they count from when it wakes.

    Raises:
        InvalidInput: The time is out of range.
        Conflict: The sandbox is dead.
    """
    check_ttl(ttl_s)
    if sandbox.state not in _LIVING:
        raise Conflict(
            f"ttl: sandbox {sandbox.id} is {sandbox.state}, only a running or sleeping one can get a new one",
            hint="Start it first, or delete it" if sandbox.state is not State.DELETED else "Create a new one",
        )
    if sandbox.state is State.ASLEEP:
        return replace(sandbox, ttl_s=ttl_s, expires_ms=0, left_ms=ttl_s * 1000)
    return replace(sandbox, ttl_s=ttl_s, expires_ms=now_ms + ttl_s * 1000 if ttl_s else 0, left_ms=0)


def asleep(sandbox: Sandbox, now_ms: int) -> Sandbox:
    """Stop the timers of a sandbox that falls asleep now, and keep its remaining time to live."""
    # 0 would mean no limit, so a sandbox that expires at this very moment keeps one millisecond.
    left_ms = max(1, sandbox.expires_ms - now_ms) if sandbox.expires_ms else sandbox.left_ms
    return replace(sandbox, expires_ms=0, left_ms=left_ms, slept_ms=now_ms)


def awake(sandbox: Sandbox, now_ms: int) -> Sandbox:
    """Start the timers of a sandbox that wakes now; waking counts as use."""
    expires_ms = now_ms + sandbox.left_ms if sandbox.left_ms else sandbox.expires_ms
    active_ms = max(sandbox.active_ms, now_ms)
    return replace(sandbox, expires_ms=expires_ms, left_ms=0, slept_ms=0, active_ms=active_ms)


def expired(sandbox: Sandbox, now_ms: int) -> bool:
    """Tell whether the time to live is over. Also for a dead machine; never while the sandbox is created or sleeps."""
    return sandbox.state in _COUNTING and 0 < sandbox.expires_ms <= now_ms


def overslept(sandbox: Sandbox, retention_s: int, now_ms: int) -> bool:
    """Tell whether the sandbox has slept for longer than sleeping sandboxes are kept; 0 seconds means forever."""
    return (
        sandbox.state is State.ASLEEP
        and retention_s > 0
        and sandbox.slept_ms > 0
        and now_ms - sandbox.slept_ms >= retention_s * 1000
    )


def idle(sandbox: Sandbox, used_ms: int, now_ms: int) -> bool:
    """Tell whether the timers allow the sandbox to fall asleep.

    Args:
        sandbox: The record.
        used_ms: Its last use that this server has seen; 0 if none.
        now_ms: The current time.
    """
    if sandbox.state is not State.RUNNING or not sandbox.auto_sleep or not sandbox.idle_s:
        return False
    return now_ms - max(used_ms, sandbox.active_ms) >= sandbox.idle_s * 1000


def _check(field: str, value: int, maximum: int, zero: str) -> None:
    if not 0 <= value <= maximum:
        raise InvalidInput(
            f"{field} must be 0 to {maximum} seconds ({maximum // _DAY_S} days), got {shown(value)}", hint=zero
        )
