"""Machines that end without being asked: each is recorded, at once or as soon as the store takes it."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ..errors import CasemateError, Conflict, Damaged
from ..machines.registry import MachineRegistry
from ..sandboxes.sandbox import State
from ..sandboxes.store import SandboxStore
from .admission import Admission

log = structlog.get_logger(__name__)


class Deaths:
    """Records which sandboxes have lost their machine.

    Args:
        store: The records of the sandboxes.
        machines: The machines that run.
        admission: Counts what they held.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self, *, store: SandboxStore, machines: MachineRegistry, admission: Admission, clock: Callable[[], int]
    ) -> None:
        self._store = store
        self._machines = machines
        self._admission = admission
        self._clock = clock
        self._unrecorded: dict[str, tuple[str, str]] = {}

    async def died(self, sandbox_id: str, machine: str, reason: str) -> None:
        """Take note of a machine's end that nobody asked for; a store that fails is told later."""
        self._admission.release(sandbox_id, machine)
        log.warning("machine died", sandbox=sandbox_id, reason=reason)
        self._unrecorded[sandbox_id] = (machine, reason)
        try:
            await self.record()
        except CasemateError as error:
            log.warning("death not recorded yet", sandbox=sandbox_id, error=error.message)

    async def record(self) -> None:
        """Write down the deaths that could not be written before."""
        for sandbox_id, death in list(self._unrecorded.items()):
            if not await self._is_recorded(sandbox_id, *death):
                continue  # the next round looks at it again
            if self._unrecorded.get(sandbox_id) == death:
                del self._unrecorded[sandbox_id]

    async def _is_recorded(self, sandbox_id: str, machine: str, reason: str) -> bool:
        try:
            sandbox = await self._store.find(sandbox_id)
        except Damaged:  # told elsewhere, and nothing can be written to it
            return True
        if sandbox is None or self._machines.get(sandbox_id) is not None:
            return True
        if sandbox.state is State.CREATING:
            return False  # its record does not say yet which machine it gets
        # What was put back to a snapshot meanwhile lives on another machine.
        if sandbox.machine != machine or not sandbox.state.may_become(State.KILLED):
            return True
        try:
            await self._store.save(sandbox.moved(State.KILLED, now_ms=self._clock(), reason=reason))
        except Conflict:
            return False  # changed meanwhile
        return True
