"""Shutdown of the server: what happens to its machines, and the messages about it."""

from __future__ import annotations

import signal
from typing import Literal, Protocol

import anyio

from .console import note

OnStop = Literal["keep", "sleep", ""]


class RunningMachines(Protocol):
    """The running machines, as far as a shutdown needs them."""

    def __len__(self) -> int:
        """Return how many machines run."""
        ...

    async def sleep_all(self) -> int:
        """Put all running machines to sleep; return how many are asleep. If cancelled, each one sleeps or runs."""
        ...


class Shutdown:
    """The shutdown that signals request.

    Args:
        on_stop: The operator's setting; empty lets the signal decide.
    """

    def __init__(self, on_stop: OnStop) -> None:
        self._on_stop: OnStop = on_stop
        self._first: int | None = None
        self._sleep_scope = anyio.CancelScope()

    def handle(self, number: int) -> None:
        """Handle a signal: the first one decides what happens to machines, a second one stops waiting for them."""
        if self._first is None:
            self._first = number
        else:
            self._sleep_scope.cancel()

    async def settle(self, machines: RunningMachines) -> str:
        """Put machines to sleep if requested; return the last message."""
        running, slept = len(machines), 0
        if running and self._sleeps():
            note(f"Putting {_counted(running)} to sleep. Press Ctrl-C again to leave the rest running.")
            with self._sleep_scope as scope:
                slept = await machines.sleep_all()
            if scope.cancelled_caught:
                slept = running - len(machines)
        return stop_summary(asleep=slept, alive=len(machines))

    def _sleeps(self) -> bool:
        if self._first is None:
            return False  # the server failed: no signal requested a shutdown
        return self._on_stop == "sleep" if self._on_stop else self._first == signal.SIGINT


def stop_hint(on_stop: OnStop) -> str:
    """Return the startup message about what Ctrl-C does."""
    if on_stop == "keep":
        return "Ctrl-C stops the server; machines keep running, and the next start takes them over."
    return "Ctrl-C stops the server; machines sleep with their memory until the next start."


def stop_summary(*, asleep: int, alive: int) -> str:
    """Return the last message, about the machines."""
    if asleep and alive:
        return (
            f"{_counted(asleep)} {_is(asleep)} asleep, {alive} keep{_s(alive)} running; the next start wakes or takes "
            "over all of them."
        )
    if asleep:
        return f"{_counted(asleep)} {_is(asleep)} asleep; the next start wakes {_them(asleep)}."
    if alive:
        return (
            f"{_counted(alive)} keep{_s(alive)} running; the next start takes {_them(alive)} over. "
            f"To delete {_them(alive)}: casemate sandbox rm --all"
        )
    return "Stopped; no machines are running."


def _counted(count: int) -> str:
    return f"{count} machine" if count == 1 else f"{count} machines"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _s(count: int) -> str:
    return "s" if count == 1 else ""


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
