"""The first step of a server: makes the records agree with the machines that an earlier server left.

An earlier server may have been killed at any step, and its machines keep running. So each record is compared with what
exists: a process, a complete sleeping machine, or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from ..disk.os_errors import EXHAUSTED
from ..errors import CasemateError, Damaged
from ..machines import suspend
from ..machines.registry import MachineRegistry
from ..repeated_warnings import RepeatedWarnings
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .attachments import Attachments
from .deaths import Deaths
from .transitions import Transitions

log = structlog.get_logger(__name__)

_KEEP_THEIR_FILES = (State.RUNNING, State.ASLEEP, State.KILLED, State.ERROR)
_ENDED = "its virtual machine ended while the server was down"
_BROKEN_WAKE = "the server ended while it was woken"

_Step = Callable[[Sandbox], Awaitable[bool]]


class Recovery:
    """Adopts what an earlier server left.

    Args:
        store: The records of the sandboxes.
        machines: The machines that run.
        transitions: Record the new state of each sandbox.
        deaths: Records machines that have ended.
        attachments: Which volumes they have.
    """

    def __init__(
        self,
        *,
        store: SandboxStore,
        machines: MachineRegistry,
        transitions: Transitions,
        deaths: Deaths,
        attachments: Attachments,
    ) -> None:
        self._store = store
        self._machines = machines
        self._transitions = transitions
        self._deaths = deaths
        self._attachments = attachments

    async def adopt(self) -> list[Sandbox]:
        """Adopt running machines, remove what belongs to nobody, and record what was lost.

        A sandbox that fails, or whose record cannot be read, does not stop the others, and nothing of it is removed.

        Returns:
            The sandboxes that the last server put to sleep when it stopped.
        """
        warnings = RepeatedWarnings()
        kept = [sandbox for state in _KEEP_THEIR_FILES for sandbox in await self._store.in_state(state)]
        damaged = await self._store.damaged()
        running = [sandbox for sandbox in kept if sandbox.state is State.RUNNING]
        asleep = [sandbox for sandbox in kept if sandbox.state is State.ASLEEP]
        failed = [sandbox for sandbox in kept if sandbox.state is State.ERROR]
        # The wake of these was under way: they have left sleep, and may already run.
        woken = [sandbox for sandbox in asleep if not suspend.is_asleep(self._machines.directory(sandbox.machine))]
        unread = {damage.machine for damage in damaged}
        swept = 0
        if "" in unread:
            log.warning("nothing removed: a damaged record does not say which machine is its own")
        else:
            swept = await self._machines.sweep(
                running={sandbox.machine for sandbox in (*running, *woken, *failed)} | unread,
                kept={sandbox.machine for sandbox in kept} | unread,
            )
        for sandbox in kept:
            await anyio.to_thread.run_sync(suspend.remove_leftovers, self._machines.directory(sandbox.machine))
        unfinished = [*await self._store.in_state(State.CREATING), *await self._store.in_state(State.DELETED)]
        for sandbox in unfinished:
            with warnings.about("sandbox not removed", sandbox=sandbox.id):
                await self._machines.destroy(sandbox.id, sandbox.machine)
                await self._attachments.forget(sandbox.owner, sandbox.id)
                await self._store.remove(sandbox.id)
        adopted = 0
        for sandbox in running:
            adopted += await self._each(sandbox, self._take_over)
        for sandbox in woken:
            adopted += await self._each(sandbox, self._finish_wake)
        lost = len(running) + len(woken) - adopted
        for sandbox in failed:
            adopted += await self._each(sandbox, self._adopt_failed)
        with warnings.about("networks of machines that have ended not swept"):
            await self._machines.sweep_networks()
        log.info(
            "adopted",
            machines=adopted,
            lost=lost,
            asleep=len(asleep) - len(woken),
            removed=swept + len(unfinished),
            damaged=len(damaged),
        )
        return [sandbox for sandbox in asleep if sandbox.wake_at_start]

    async def _each(self, sandbox: Sandbox, step: _Step) -> bool:
        try:
            return await step(sandbox)
        except Damaged as error:
            log.warning("machine not adopted", sandbox=sandbox.id, reason=str(error))
            reason = error.message
        except CasemateError:
            raise  # the store or the host fails: this sandbox is not the cause
        except Exception as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            log.exception("machine not adopted", sandbox=sandbox.id)
            reason = f"the server could not adopt it ({type(error).__name__})"
        if self._machines.get(sandbox.id) is None:
            # A process of it keeps running: a server that can read the record will adopt it.
            await self._transitions.failed(
                sandbox, reason, holds_memory=await self._machines.has_process(sandbox.machine)
            )
        return False

    async def _take_over(self, sandbox: Sandbox) -> bool:
        directory = self._machines.directory(sandbox.machine)
        machine = await self._machines.adopt(sandbox.id, sandbox.machine)
        if machine is None:
            if suspend.is_asleep(directory):
                await self._transitions.slept(sandbox.id)
                return True
            await self._end_unrecorded(sandbox)
            await self._deaths.died(sandbox.id, sandbox.machine, _ENDED)
            return False
        self._transitions.runs(sandbox)
        try:
            # An interrupted sleep, snapshot or fork has left it paused.
            await anyio.to_thread.run_sync(suspend.forget_sleep, directory)
            if await machine.driver.problem(machine.running):
                await machine.driver.resume(machine.running)
            # An interrupted attach, detach, sleep, snapshot or fork has left it with fewer or more than it should have.
            await self._attachments.bring_back(sandbox.id, machine)
        except CasemateError as error:
            log.warning("machine not resumed", sandbox=sandbox.id, error=error.message)
        return True

    async def _finish_wake(self, sandbox: Sandbox) -> bool:
        machine = await self._machines.adopt(sandbox.id, sandbox.machine)
        if machine is None:
            await self._end_unrecorded(sandbox)
            await self._deaths.died(sandbox.id, sandbox.machine, _BROKEN_WAKE)
            return False
        try:
            if await machine.driver.problem(machine.running):
                await machine.driver.resume(machine.running)
            await suspend.reconnect(machine)
            await self._attachments.bring_back(sandbox.id, machine)
            await self._transitions.woke(sandbox.id, machine)
        except CasemateError as error:
            log.warning("machine not woken", sandbox=sandbox.id, error=error.message)
            await self._machines.end(sandbox.id)
            await self._deaths.died(sandbox.id, sandbox.machine, _BROKEN_WAKE)
            return False
        return True

    async def _adopt_failed(self, sandbox: Sandbox) -> bool:
        """Adopt a machine that an earlier start could not adopt, if it works now."""
        machine = await self._machines.adopt(sandbox.id, sandbox.machine)
        if machine is not None:
            await self._transitions.woke(sandbox.id, machine)
        return machine is not None

    async def _end_unrecorded(self, sandbox: Sandbox) -> None:
        """End a machine that a server started without recording it."""
        try:
            await self._machines.end_orphans(sandbox.machine)
        except TimeoutError:
            log.warning("process not ended", sandbox=sandbox.id, machine=sandbox.machine)
