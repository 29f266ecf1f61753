"""Deletes sandboxes: the record first, so that what a crash leaves behind is known to belong to nobody."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..machines.registry import MachineRegistry
from ..network.gateway import Gateway
from ..repeated_warnings import RepeatedWarnings
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .activity import Activity
from .admission import Admission
from .attachments import Attachments
from .transitions import Transitions

_TURN_S = 10
_AT_ONCE = 10


class Deleter:
    """Deletes sandboxes with everything in them, without their guests; their snapshots and volumes stay.

    Args:
        store: The records of the sandboxes.
        machines: The machines that run.
        transitions: Changes of a sandbox that may be under way.
        admission: Counts the memory they used.
        activity: Which sandboxes are in use.
        attachments: Which volumes they have.
        gateway: Knows where they connected to.
        on_deleted: Called with the id of each that is deleted.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        store: SandboxStore,
        machines: MachineRegistry,
        transitions: Transitions,
        admission: Admission,
        activity: Activity,
        attachments: Attachments,
        gateway: Gateway,
        on_deleted: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._machines = machines
        self._transitions = transitions
        self._admission = admission
        self._activity = activity
        self._attachments = attachments
        self._gateway = gateway
        self._on_deleted = on_deleted
        self._clock = clock
        self._warnings = RepeatedWarnings()

    async def delete(self, sandbox_id: str) -> None:
        """Delete a sandbox in any state. What cannot be removed now, the sweep removes."""
        await self._finish(await self._store.change(sandbox_id, self._deleted))

    async def delete_seen(self, seen: Sandbox) -> None:
        """Delete a sandbox if its record has not changed since it was read.

        Raises:
            Conflict: It has changed.
        """
        await self._finish(await self._store.save(self._deleted(seen)))

    async def finish(self) -> None:
        """Remove what failed deletions left; one that fails again does not stop the others."""
        slots = anyio.CapacityLimiter(_AT_ONCE)
        remains = await self._store.in_state(State.DELETED)
        async with anyio.create_task_group() as tasks:
            for sandbox in remains:
                tasks.start_soon(self._finish_one, sandbox, slots)

    async def _finish_one(self, sandbox: Sandbox, slots: anyio.CapacityLimiter) -> None:
        # In parallel, because ending a stuck process takes time.
        async with slots:
            with self._warnings.about("sandbox not removed", sandbox=sandbox.id):
                await self._teardown(sandbox)

    def _deleted(self, sandbox: Sandbox) -> Sandbox:
        return sandbox.moved(State.DELETED, now_ms=self._clock())

    async def _finish(self, sandbox: Sandbox) -> None:
        with anyio.CancelScope(shield=True):
            # A wake that is under way sees that the record is gone, and stops; one that hangs is not waited for.
            with anyio.move_on_after(_TURN_S):
                async with self._transitions.exclusive(sandbox.id):
                    pass
            # Its owner no longer sees it, whatever is left of it.
            with self._warnings.about("sandbox not removed", sandbox=sandbox.id):
                await self._teardown(sandbox)

    async def _teardown(self, sandbox: Sandbox) -> None:
        self._on_deleted(sandbox.id)
        machine = self._machines.get(sandbox.id)
        if machine is not None:
            await self._attachments.flush(machine)
        await self._machines.destroy(sandbox.id, sandbox.machine)
        self._admission.release(sandbox.id)
        await self._attachments.forget(sandbox.owner, sandbox.id)
        await self._store.remove(sandbox.id)
        self._activity.forget(sandbox.id)
        self._gateway.forget(sandbox.id)
