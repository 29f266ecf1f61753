"""Changes of a sandbox's state, one at a time: how each begins, and how each new state is recorded.

Each change ends with one write of the record. A change that is interrupted before that leaves the sandbox as it was;
the next start of the server makes records and machines agree again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import anyio

from ..errors import NotFound
from ..machines import suspend
from ..machines.clone import end
from ..machines.machine import Machine
from ..machines.registry import MachineRegistry
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .activity import Activity
from .admission import Admission
from .attachments import Attachments
from .keyed_lock import KeyedLock


class Transitions:
    """Shared steps of every change of a sandbox's state.

    Args:
        store: The records of the sandboxes.
        machines: The machines that run.
        admission: Checks limits.
        activity: Which sandboxes are in use.
        attachments: Which volumes they have.
        clock: Milliseconds since the epoch.
        on_start: Called with how each machine got its memory.
    """

    def __init__(
        self,
        *,
        store: SandboxStore,
        machines: MachineRegistry,
        admission: Admission,
        activity: Activity,
        attachments: Attachments,
        clock: Callable[[], int],
        on_start: Callable[[str], None],
    ) -> None:
        self._store = store
        self._machines = machines
        self._admission = admission
        self._activity = activity
        self._attachments = attachments
        self._clock = clock
        self._on_start = on_start
        self._lock = KeyedLock()

    def exclusive(self, sandbox_id: str) -> AbstractAsyncContextManager[None]:
        """Hold the sandbox's lock, so that no other change of its state runs."""
        return self._lock.of(sandbox_id)

    @asynccontextmanager
    async def alone(self, sandbox_id: str) -> AsyncGenerator[None]:
        """Hold the sandbox's lock, and keep calls out of its guest for the length of a block."""
        async with self._lock.of(sandbox_id), self._activity.closed(sandbox_id):
            yield

    async def current(self, sandbox_id: str) -> Sandbox:
        """Return the current record.

        Raises:
            NotFound: The sandbox is deleted.
        """
        sandbox = await self._store.find(sandbox_id)
        if sandbox is None or sandbox.state is State.DELETED:
            raise _gone(sandbox_id)
        return sandbox

    def asleep(self, found: Sandbox) -> Sandbox:
        """Make the record of a sandbox that has fallen asleep."""
        now = self._clock()
        return lease.asleep(found.moved(State.ASLEEP, now_ms=now), now)

    def running(self, found: Sandbox, machine: Machine, *, base: str, reason: str) -> Sandbox:
        """Make the record of a sandbox that runs on a machine.

        Raises:
            NotFound: The sandbox is deleted.
        """
        if found.state is State.DELETED:
            raise _gone(found.id)
        now = self._clock()
        moved = found if found.state is State.RUNNING else lease.awake(found.moved(State.RUNNING, now_ms=now), now)
        return replace(
            moved,
            machine=machine.directory.name,
            memory=machine.running.memory.value,
            base=base,
            reason=reason,
            wake_at_start=False,
            active_ms=now,
            updated_ms=now,
        )

    def ended(self, found: Sandbox, reason: str) -> Sandbox:
        """Make the record of a sandbox whose machine has ended.

        Raises:
            NotFound: The sandbox is deleted.
        """
        if found.state is State.DELETED:
            raise _gone(found.id)
        now = self._clock()
        if found.state.may_become(State.KILLED):
            return found.moved(State.KILLED, now_ms=now, reason=reason)
        return replace(found, reason=reason, updated_ms=now)

    async def up(self, sandbox_id: str, machine: Machine, *, reason: str = "") -> Sandbox:
        """Give a machine in a sandbox's directory its volumes, and record that the sandbox runs on it.

        If that fails, put the machine back to sleep.
        """
        try:
            missing = await self._attachments.bring_back(sandbox_id, machine)
            reason = "; ".join(text for text in (reason, missing) if text)
            sandbox = await self._store.change(
                sandbox_id, lambda found: self.running(found, machine, base=found.base, reason=reason)
            )
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                self._admission.release(sandbox_id)
                if isinstance(error, NotFound):
                    await end(machine)
                else:
                    await self._attachments.put_away(machine, force=True)
                    await suspend.fall_asleep(machine)
            raise
        self._machines.attach(sandbox_id, machine)
        self._on_start(machine.running.memory)
        await self._machines.networked(sandbox_id)
        return sandbox

    def runs(self, sandbox: Sandbox) -> None:
        """Count a machine of an earlier server that already runs."""
        self._admission.running(sandbox)

    async def slept(self, sandbox_id: str) -> None:
        """Record that a sandbox sleeps, because an earlier server ended before it could."""
        await self._store.change(sandbox_id, self.asleep)

    async def woke(self, sandbox_id: str, machine: Machine) -> None:
        """Record that a sandbox runs, because an earlier server ended during its wake or could not adopt it."""

        def running(found: Sandbox) -> Sandbox:
            reason = "" if found.state is State.ERROR else found.reason
            return self.running(found, machine, base=found.base, reason=reason)

        self._admission.running(await self._store.change(sandbox_id, running))

    async def failed(self, sandbox: Sandbox, reason: str, *, holds_memory: bool) -> None:
        """Record that a sandbox cannot be used until it is started again.

        Args:
            sandbox: The sandbox.
            reason: What its owner should know.
            holds_memory: Whether a process of it still exists.
        """
        if holds_memory:
            self._admission.running(sandbox)
        if sandbox.state.may_become(State.ERROR):
            await self._store.change(
                sandbox.id, lambda found: found.moved(State.ERROR, now_ms=self._clock(), reason=reason)
            )


def _gone(sandbox_id: str) -> NotFound:
    return NotFound(f"There is no longer a sandbox {sandbox_id}", hint="List the sandboxes, or create one")
