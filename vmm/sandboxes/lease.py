"""A sandbox's clocks as arithmetic on its record: time to live, sleep, idleness. No I/O; the time is an argument.

A life is counted only while the sandbox does not sleep. While it counts, the record holds its end (`expires_ms`); while
it sleeps, what is left of it (`left_ms`). None of these functions changes the state: that is `Sandbox.moved`.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import Conflict, InvalidInput
from .sandbox import Sandbox, State

MAX_TTL_S = 30 * 86_400
MAX_IDLE_S = 30 * 86_400

_LIVING = frozenset({State.CREATING, State.RUNNING, State.ASLEEP})
_COUNTING = frozenset({State.RUNNING, State.KILLED, State.ERROR})


def check_ttl(ttl_s: int) -> None:
    """Refuse a time to live that cannot be; 0 is no limit.

    Raises:
        InvalidInput: It is negative or longer than 30 days.
    """
    _check("ttl", ttl_s, MAX_TTL_S, "no limit; it can be renewed at any time")


def check_idle(idle_s: int) -> None:
    """Refuse an idle limit that cannot be; 0 is never.

    Raises:
        InvalidInput: It is negative or longer than 30 days.
    """
    _check("idle", idle_s, MAX_IDLE_S, "never")


def renewed(sandbox: Sandbox, ttl_s: int, now_ms: int) -> Sandbox:
    """The sandbox with so many seconds to live from now on, longer or shorter than before; 0 takes the limit away.

    One that sleeps has them from its waking on.

    Raises:
        InvalidInput: The time cannot be.
        Conflict: The sandbox is dead.
    """
    check_ttl(ttl_s)
    if sandbox.state not in _LIVING:
        raise Conflict(
            f"ttl: sandbox {sandbox.id} is {sandbox.state}, so its time cannot be changed",
            hint="Start it first, or delete it" if sandbox.state is not State.DELETED else "Create a new one",
        )
    if sandbox.state is State.ASLEEP:
        return replace(sandbox, ttl_s=ttl_s, expires_ms=0, left_ms=ttl_s * 1000)
    return replace(sandbox, ttl_s=ttl_s, expires_ms=now_ms + ttl_s * 1000 if ttl_s else 0, left_ms=0)


def asleep(sandbox: Sandbox, now_ms: int) -> Sandbox:
    """The sandbox with its clocks stopped, because it falls asleep now; what is left of its life is kept."""
    # Of a life that ends this very moment a millisecond is left: 0 would be no limit.
    left_ms = max(1, sandbox.expires_ms - now_ms) if sandbox.expires_ms else sandbox.left_ms
    return replace(sandbox, expires_ms=0, left_ms=left_ms, slept_ms=now_ms)


def awake(sandbox: Sandbox, now_ms: int) -> Sandbox:
    """The sandbox with its clocks running again, because it wakes now; being woken counts as being used."""
    expires_ms = now_ms + sandbox.left_ms if sandbox.left_ms else sandbox.expires_ms
    active_ms = max(sandbox.active_ms, now_ms)
    return replace(sandbox, expires_ms=expires_ms, left_ms=0, slept_ms=0, active_ms=active_ms)


def expired(sandbox: Sandbox, now_ms: int) -> bool:
    """Whether its time to live is over. Never while it is made or sleeps; also for one whose machine has died."""
    return sandbox.state in _COUNTING and 0 < sandbox.expires_ms <= now_ms


def overslept(sandbox: Sandbox, retention_s: int, now_ms: int) -> bool:
    """Whether it sleeps for longer than sleeping sandboxes are kept; a retention of 0 seconds is for ever."""
    return (
        sandbox.state is State.ASLEEP
        and retention_s > 0
        and sandbox.slept_ms > 0
        and now_ms - sandbox.slept_ms >= retention_s * 1000
    )


def idle(sandbox: Sandbox, used_ms: int, now_ms: int) -> bool:
    """Whether it may fall asleep, as far as clocks tell.

    Args:
        sandbox: The record.
        used_ms: Its last use as this server knows it; 0 if it knows none.
        now_ms: The time.
    """
    if sandbox.state is not State.RUNNING or not sandbox.auto_sleep or not sandbox.idle_s:
        return False
    return now_ms - max(used_ms, sandbox.active_ms) >= sandbox.idle_s * 1000


def _check(field: str, value: int, most: int, zero: str) -> None:
    if not 0 <= value <= most:
        raise InvalidInput(
            f"{field}: {str(value)[:80]} seconds cannot be",
            hint=f"Use 1 to {most} (30 days), or 0 for {zero}",
        )
