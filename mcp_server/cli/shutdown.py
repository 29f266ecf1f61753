"""How a run of the server ends: what its machines do then, and what is said of them."""

from __future__ import annotations

import signal
from typing import Literal, Protocol

import anyio

from .console import note

OnStop = Literal["keep", "sleep", ""]


class Sleepers(Protocol):
    """The machines, as far as their end is concerned: how many run, and a way to put all to sleep."""

    def __len__(self) -> int:
        """How many run."""
        ...

    async def sleep_all(self) -> int:
        """Put all to sleep that run, and tell how many sleep. Broken off, each of them sleeps or runs."""
        ...


class Shutdown:
    """What signals have asked for, and what came of it.

    Args:
        on_stop: The operator's word; empty leaves it to the signal.
    """

    def __init__(self, on_stop: OnStop) -> None:
        self._on_stop: OnStop = on_stop
        self._first: int | None = None
        self._patience = anyio.CancelScope()

    def handle(self, number: int) -> None:
        """Take a signal: the first one decides what machines do, a second one waits for none of them."""
        if self._first is None:
            self._first = number
        else:
            self._patience.cancel()

    async def settle(self, machines: Sleepers) -> str:
        """Do to the machines what was asked for; what to say about them at the end."""
        running, slept = len(machines), 0
        if running and self._sleeps():
            note(f"Putting {_counted(running)} to sleep. Ctrl-C once more leaves those running that do not sleep yet.")
            with self._patience as patience:
                slept = await machines.sleep_all()
            if patience.cancelled_caught:
                slept = running - len(machines)
        return stop_summary(asleep=slept, alive=len(machines))

    def _sleeps(self) -> bool:
        if self._first is None:
            return False  # it failed by itself: nobody asked for anything
        return self._on_stop == "sleep" if self._on_stop else self._first == signal.SIGINT


def stop_hint(on_stop: OnStop) -> str:
    """What to say at the beginning about the end."""
    if on_stop == "keep":
        return "Ctrl-C stops the server; machines live on, and the next start takes them over."
    return "Ctrl-C stops the server; machines sleep with their memory until the next start."


def stop_summary(*, asleep: int, alive: int) -> str:
    """What to say at the end about the machines."""
    if asleep and alive:
        return f"{_counted(asleep)} sleep{_s(asleep)}, {alive} live{_s(alive)} on; the next start has all of them run."
    if asleep:
        return f"{_counted(asleep)} sleep{_s(asleep)}; the next start wakes {_them(asleep)}."
    if alive:
        return (
            f"{_counted(alive)} live{_s(alive)} on; the next start takes {_them(alive)} over. "
            f"To end {_them(alive)}: casemate sandbox rm --all"
        )
    return "Stopped; no machine runs."


def _counted(count: int) -> str:
    return f"{count} machine" if count == 1 else f"{count} machines"


def _s(count: int) -> str:
    return "s" if count == 1 else ""


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
