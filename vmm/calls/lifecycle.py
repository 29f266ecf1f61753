"""Calls that change whether a sandbox runs: sleep, wake, restart."""

from __future__ import annotations

import os

import anyio
import structlog

from ..errors import CasemateError, Conflict
from ..lifecycle.restart import Restarter
from ..lifecycle.sleep import Sleeper
from ..machines.registry import MachineRegistry
from ..sandboxes.sandbox import Sandbox
from .ownership import Ownership

log = structlog.get_logger(__name__)

_AT_ONCE = os.cpu_count() or 1


class LifecycleCalls:
    """What an owner may do to whether a sandbox runs.

    Args:
        ownership: Finds the owner's sandboxes.
        sleeper: Puts them to sleep and wakes them.
        restarter: Starts them again.
        machines: The machines that run.
    """

    def __init__(
        self, *, ownership: Ownership, sleeper: Sleeper, restarter: Restarter, machines: MachineRegistry
    ) -> None:
        self._ownership = ownership
        self._sleeper = sleeper
        self._restarter = restarter
        self._machines = machines

    def __len__(self) -> int:
        """Count the machines that run."""
        return len(self._machines)

    async def sleep(self, owner: str, ref: str) -> Sandbox:
        """Put a sandbox to sleep with its memory; a sleeping one stays asleep. Interrupts calls in it.

        Raises:
            Conflict: It does not run.
            HostExhausted: The host's disk is full; it keeps running.
            Unavailable: The hypervisor could not save it; it keeps running, if it is alive.
        """
        return await self._sleeper.sleep((await self._ownership.made(owner, ref)).id)

    async def sleep_all(self) -> int:
        """Put all sandboxes to sleep, to be woken by the next start, and count those that sleep; the others run on."""
        asleep = 0
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def put(sandbox_id: str) -> None:
            nonlocal asleep
            async with slots:
                try:
                    await self._sleeper.sleep_at_stop(sandbox_id)
                    asleep += 1
                except CasemateError as error:
                    log.warning("machine not put to sleep", sandbox=sandbox_id, error=error.message)
                except Exception:  # one failure must not keep the others awake
                    log.exception("machine not put to sleep", sandbox=sandbox_id)

        async with anyio.create_task_group() as tasks:
            for sandbox_id in self._machines.sandboxes():
                tasks.start_soon(put, sandbox_id)
        return asleep

    async def wake(self, owner: str, ref: str) -> Sandbox:
        """Wake a sandbox; a running one stays as it is. Any other call in it wakes it too.

        Raises:
            Conflict: Another hypervisor put it to sleep, its state does not allow it, or its guest does not answer.
            SandboxLost: Its machine has died.
            LimitExceeded: The owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory.
            Unavailable: The hypervisor failed.
        """
        return await self._check_answers(await self._sleeper.wake((await self._ownership.made(owner, ref)).id))

    async def revive(self, owner: str, ref: str) -> Sandbox:
        """Make a sandbox run again, whatever its state: from its sleep, its newest snapshot, or its disk.

        `reason` of the result says what it was started from and what is lost; it is empty if nothing is.

        Raises:
            Conflict: It runs, but its guest does not answer: it must be restarted.
            SandboxLost: Nothing is left to start from.
            LimitExceeded: The owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory or disk space.
            Unavailable: The hypervisor failed.
        """
        return await self._check_answers(await self._restarter.revive((await self._ownership.made(owner, ref)).id))

    async def restart(self, owner: str, ref: str, *, from_snapshot: bool = False) -> Sandbox:
        """Start a sandbox again from its disk, or from its newest snapshot, even if its guest hangs.

        Works in any state, and needs nothing from the guest. Interrupts calls in it. `reason` of the result says what
        it was started from and what is lost: memory and programs, and with a snapshot everything that came after it.

        Raises:
            Conflict: It is still being created, or no snapshot of it can be restored here.
            SandboxLost: It has no disk.
            LimitExceeded: The owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory or disk space.
            Unavailable: It did not start: after a snapshot it is as it was, after its disk it is killed.
        """
        return await self._restarter.restart((await self._ownership.made(owner, ref)).id, from_snapshot=from_snapshot)

    async def _check_answers(self, sandbox: Sandbox) -> Sandbox:
        """Return a sandbox that is recorded as running, if its guest answers."""
        machine = self._machines.get(sandbox.id)
        if machine is not None and not await machine.link.answers():
            why = self._machines.why_unresponsive(sandbox.id)
            raise Conflict(f"Sandbox {sandbox.id} ({sandbox.name}) is running already, but {why}")
        return sandbox
