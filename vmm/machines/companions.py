"""What is done beside each machine for as long as it is a sandbox's: its network is served, its files are watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio
from anyio.abc import TaskGroup

from ..repeated_warnings import RepeatedWarnings
from .machine import Machine

Beside = Callable[[str, Machine, Callable[[], None]], Awaitable[None]]
"""Serves a sandbox's machine until cancelled; what serves its network calls the last argument once its policy is in
force."""

_AGAIN_S = 1
IN_FORCE_S = 5
"""How long a sandbox that runs is kept back for its policy."""


class Companions:
    """Serves machines, each in tasks of its own.

    Args:
        beside: What serves one, by what is logged if it fails; then it is run again.
        tasks: Runs them.
    """

    def __init__(self, beside: Mapping[str, Beside], tasks: TaskGroup) -> None:
        self._beside = beside
        self._tasks = tasks
        self._begun: dict[str, _Companion] = {}
        self._warnings = RepeatedWarnings()

    def begin(self, sandbox_id: str, machine: Machine) -> None:
        """Serve a sandbox's machine from now on, and no earlier one of it."""
        self.end(sandbox_id)
        if not self._beside:
            return  # and nobody has to wait
        self._begun[sandbox_id] = companion = _Companion()
        for failed, serve in self._beside.items():
            scope = anyio.CancelScope()
            companion.scopes.append(scope)
            self._tasks.start_soon(self._serve, sandbox_id, machine, companion, serve, failed, scope)

    def end(self, sandbox_id: str) -> None:
        """Serve a sandbox's machine no more. A no-op if it is not served."""
        if companion := self._begun.pop(sandbox_id, None):
            for scope in companion.scopes:
                scope.cancel()
            companion.in_force.set()

    async def in_force(self, sandbox_id: str) -> None:
        """Wait until a sandbox's policy is in force, before which nothing leaves it.

        At most some seconds: a host that does not take the policy is asked again and again, and the sandbox is of use
        meanwhile.
        """
        if companion := self._begun.get(sandbox_id):
            with anyio.move_on_after(IN_FORCE_S):
                await companion.in_force.wait()

    async def _serve(
        self,
        sandbox_id: str,
        machine: Machine,
        companion: _Companion,
        serve: Beside,
        failed: str,
        scope: anyio.CancelScope,
    ) -> None:
        with scope:
            while True:
                with self._warnings.about(failed, sandbox=sandbox_id):
                    await serve(sandbox_id, machine, companion.in_force.set)
                    return
                await anyio.sleep(_AGAIN_S)


class _Companion:
    """One machine's.

    Attributes:
        scopes: Around each thing that is done.
        in_force: Set once its policy is, or nobody need wait for that any more.
    """

    def __init__(self) -> None:
        self.scopes: list[anyio.CancelScope] = []
        self.in_force = anyio.Event()
