"""What is done beside each machine for as long as it is a sandbox's: its network is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from ..repeated_warnings import RepeatedWarnings
from .machine import Machine

Beside = Callable[[str, Machine, Callable[[], None]], Awaitable[None]]
"""Serves a sandbox's machine until cancelled; calls the last argument as soon as its policy is in force."""

_AGAIN_S = 1
IN_FORCE_S = 5
"""How long a sandbox that runs is kept back for its policy."""


class Companions:
    """Serves the networks of machines, each in a task of its own.

    Args:
        beside: Serves one; run again if it fails.
        tasks: Runs them.
    """

    def __init__(self, beside: Beside, tasks: TaskGroup) -> None:
        self._beside = beside
        self._tasks = tasks
        self._begun: dict[str, _Companion] = {}
        self._warnings = RepeatedWarnings()

    def begin(self, sandbox_id: str, machine: Machine) -> None:
        """Serve a sandbox's machine from now on, and no earlier one of it."""
        self.end(sandbox_id)
        self._begun[sandbox_id] = companion = _Companion()
        self._tasks.start_soon(self._serve, sandbox_id, machine, companion)

    def end(self, sandbox_id: str) -> None:
        """Serve a sandbox's machine no more. A no-op if it is not served."""
        if companion := self._begun.pop(sandbox_id, None):
            companion.scope.cancel()
            companion.in_force.set()

    async def in_force(self, sandbox_id: str) -> None:
        """Wait until a sandbox's policy is in force, before which nothing leaves it.

        At most some seconds: a host that does not take the policy is asked again and again, and the sandbox is of use
        meanwhile.
        """
        if companion := self._begun.get(sandbox_id):
            with anyio.move_on_after(IN_FORCE_S):
                await companion.in_force.wait()

    async def _serve(self, sandbox_id: str, machine: Machine, companion: _Companion) -> None:
        with companion.scope:
            while True:
                with self._warnings.about("network not served", sandbox=sandbox_id):
                    await machine.readdress()
                    await self._beside(sandbox_id, machine, companion.in_force.set)
                    return
                await anyio.sleep(_AGAIN_S)


class _Companion:
    """One machine's.

    Attributes:
        scope: Around all that is done.
        in_force: Set once its policy is, or nobody need wait for that any more.
    """

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.in_force = anyio.Event()
