"""Puts sandboxes to sleep with their memory, and wakes them."""

from __future__ import annotations

from dataclasses import replace

import anyio
import structlog
from anyio.abc import TaskGroup

from ..errors import Conflict, Unavailable
from ..hypervisor.base import Hypervisor
from ..machines import suspend
from ..machines.machine import Machine
from ..machines.registry import MachineRegistry
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .activity import Activity
from .admission import Admission
from .attachments import Attachments
from .deaths import Deaths
from .single_flight import SingleFlight
from .transitions import Transitions
from .unusable import check_made, unreachable

log = structlog.get_logger(__name__)

_WAKE_S = 120


class Sleeper:
    """Puts sandboxes to sleep and wakes them.

    Args:
        driver: The hypervisor.
        transitions: Allow one change of a sandbox at a time.
        store: The records of the sandboxes.
        machines: The machines that run.
        admission: Checks limits.
        activity: Which sandboxes are in use.
        deaths: Records a machine that died in a failed wake.
        attachments: Which volumes they have.
        tasks: Runs wakes, so that they finish even if the caller goes away.
    """

    def __init__(
        self,
        *,
        driver: Hypervisor,
        transitions: Transitions,
        store: SandboxStore,
        machines: MachineRegistry,
        admission: Admission,
        activity: Activity,
        deaths: Deaths,
        attachments: Attachments,
        tasks: TaskGroup,
    ) -> None:
        self._driver = driver
        self._transitions = transitions
        self._store = store
        self._machines = machines
        self._admission = admission
        self._activity = activity
        self._deaths = deaths
        self._attachments = attachments
        self._flights = SingleFlight(tasks)

    async def sleep_if_unused(self, seen: Sandbox, used_ms: int) -> None:
        """Put a sandbox to sleep if it was not used since a given time and its record has not changed.

        Raises:
            Conflict: It was used or changed since.
            HostExhausted: The host's disk is full; it keeps running.
            Unavailable: The hypervisor could not save it; it keeps running, if it is alive.
        """
        async with self._transitions.exclusive(seen.id), self._activity.claimed(seen.id, used_ms):
            if (await self._transitions.current(seen.id)).version != seen.version:
                raise Conflict(f"Sandbox {seen.id} was changed by another call")
            await self._sleep(seen, wake_at_start=False)

    async def sleep(self, sandbox_id: str) -> Sandbox:
        """Put a running sandbox to sleep with its memory; a sleeping one stays asleep. Interrupts calls in it.

        Raises:
            Conflict: It does not run.
            HostExhausted: The host's disk is full; it keeps running.
            Unavailable: The hypervisor could not save it; it keeps running, if it is alive.
        """
        async with self._transitions.alone(sandbox_id):
            sandbox = await self._transitions.current(sandbox_id)
            check_made(sandbox)
            if sandbox.state is State.ASLEEP:
                return sandbox
            return await self._sleep(sandbox, wake_at_start=False)

    async def sleep_at_stop(self, sandbox_id: str) -> None:
        """Put a running sandbox to sleep as the server stops, to be woken by its next start.

        If the store does not answer, it sleeps all the same: the next start sees that, and its next use wakes it.

        Raises:
            CasemateError: As `sleep`; it keeps running.
        """
        async with self._transitions.alone(sandbox_id):
            machine = self._machines.get(sandbox_id)
            if machine is None:
                raise unreachable(await self._transitions.current(sandbox_id))
            try:
                sandbox = await self._transitions.current(sandbox_id)
                check_made(sandbox)
            except Unavailable as error:
                await self._save(sandbox_id, machine)
                log.warning("asleep, which is not recorded", sandbox=sandbox_id, reason=error.message)
                return
            try:
                await self._sleep(sandbox, wake_at_start=True)
            except Unavailable as error:
                if not suspend.is_asleep(machine.directory):
                    raise
                log.warning("asleep, which is not recorded", sandbox=sandbox_id, reason=error.message)

    async def wake(self, sandbox_id: str) -> Sandbox:
        """Wake a sandbox, once for all concurrent callers; a running one stays as it is.

        Raises:
            Conflict: Another hypervisor put it to sleep, or its state does not allow it.
            SandboxLost: Its machine has died.
            LimitExceeded: Its owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory.
            Unavailable: The hypervisor failed, or it takes too long.
        """
        return await self._flights.run("wake", sandbox_id, self._wake, within_s=_WAKE_S)

    async def _sleep(self, sandbox: Sandbox, *, wake_at_start: bool) -> Sandbox:
        if sandbox.state is not State.RUNNING:
            raise Conflict(f"Sandbox {sandbox.id} is {sandbox.state}, only a running one can sleep")
        machine = self._machines.get(sandbox.id)
        if machine is None:
            raise unreachable(sandbox)
        await self._save(sandbox.id, machine)
        with anyio.CancelScope(shield=True):  # it is asleep now, even if the caller has given up
            sandbox = await self._store.change(
                sandbox.id, lambda found: replace(self._transitions.asleep(found), wake_at_start=wake_at_start)
            )
        log.info("asleep", sandbox=sandbox.id)
        return sandbox

    async def _save(self, sandbox_id: str, machine: Machine) -> None:
        """Save a machine, whose sandbox's lock the caller holds, and end it; if that fails, it runs on."""
        with_volumes = True
        try:
            with_volumes = await self._attachments.put_away(machine)
            self._machines.detach(sandbox_id)
            try:
                with machine.link.held():
                    await suspend.fall_asleep(machine)
            except BaseException:
                self._machines.attach(sandbox_id, machine)
                raise
        except BaseException:
            if with_volumes:
                with anyio.CancelScope(shield=True):
                    await self._attachments.bring_back(sandbox_id, machine)
            raise
        self._admission.release(sandbox_id)

    async def _wake(self, sandbox_id: str) -> Sandbox:
        async with self._transitions.exclusive(sandbox_id):
            sandbox = await self._transitions.current(sandbox_id)
            if self._machines.get(sandbox_id) is not None:
                return sandbox
            directory = self._machines.directory(sandbox.machine)
            # A record that says "running" may be outdated: the store failed when the machine fell asleep.
            if sandbox.state not in {State.ASLEEP, State.RUNNING} or not suspend.is_asleep(directory):
                raise unreachable(sandbox)
            await self._admission.readmit(sandbox, sandbox.machine)
            try:
                machine = await suspend.wake(self._driver, directory)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    if suspend.is_asleep(directory):
                        self._admission.release(sandbox_id)
                    else:
                        await self._deaths.died(
                            sandbox_id, sandbox.machine, "its virtual machine failed while it was waking"
                        )
                raise
            return await self._transitions.up(sandbox_id, machine)
