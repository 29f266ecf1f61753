"""Connects a call to the guest of its sandbox, wakes one that sleeps, and explains why one has gone away."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from ..errors import CasemateError, Conflict, HostExhausted, LinkError, LinkTimeout, NotFound
from ..guest.link import GuestLink
from ..machines.machine import Machine
from ..machines.registry import RESTART, MachineRegistry
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .activity import Activity
from .creations import Creations
from .sleep import Sleeper
from .transitions import Transitions
from .unusable import lost, unreachable

_SETTLE_S = 4
_RESTART = f"If it does not recover, {RESTART}"


class GuestAccess:
    """Gives calls the link to a guest.

    Args:
        store: The records of the sandboxes.
        machines: The machines that run.
        transitions: Allow one change of a sandbox at a time.
        sleeper: Wakes those that sleep.
        activity: Which sandboxes are in use.
        creations: Which are still being created in the background.
    """

    def __init__(
        self,
        *,
        store: SandboxStore,
        machines: MachineRegistry,
        transitions: Transitions,
        sleeper: Sleeper,
        activity: Activity,
        creations: Creations,
    ) -> None:
        self._store = store
        self._machines = machines
        self._transitions = transitions
        self._sleeper = sleeper
        self._activity = activity
        self._creations = creations

    @asynccontextmanager
    async def use(self, sandbox: Sandbox) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        """Give one operation the sandbox and the link to its guest; wakes the sandbox and keeps it awake.

        Raises:
            NotFound: It is deleted.
            Conflict: The sandbox fell asleep or was restored during the operation.
            SandboxLost: Its machine has died.
            HostExhausted: The host lacks what its machine needs.
            Unavailable: It does not wake.
        """
        async with self._activity.use(sandbox.id):
            if self._machines.get(sandbox.id) is None:
                sandbox = await self._awake(sandbox)
            async with self.look(sandbox) as pair:
                yield pair

    @asynccontextmanager
    async def look(self, sandbox: Sandbox) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        """Give one operation the sandbox and the link to its guest, without counting as use.

        Raises:
            NotFound: It is deleted.
            Conflict: It is asleep.
            SandboxLost: Its machine has died.
            HostExhausted: The host lacks what its machine needs.
        """
        machine = self._machines.get(sandbox.id)
        if machine is None:
            raise unreachable(await self._settled(sandbox) or sandbox)
        try:
            yield sandbox, machine.link
        except LinkError as error:
            if not isinstance(error, LinkTimeout) and await self._machines.gone(sandbox.id, machine):
                raise await self._gone(sandbox) from error
            problem = await self._problem(sandbox, machine)
            if problem:
                raise HostExhausted(
                    f"Sandbox {sandbox.id} is paused: {problem}",
                    hint="It goes on by itself, with nothing lost, once the host has enough disk space again",
                ) from error
            if machine.link.silent_s:
                raise LinkTimeout(f"{error.message}: sandbox {sandbox.id} does not respond", hint=_RESTART) from error
            raise

    async def is_idle(self, sandbox: Sandbox) -> bool:
        """Ask whether nothing runs inside the sandbox on its own.

        Raises:
            LinkTimeout: Its guest does not answer.
        """
        machine = self._machines.get(sandbox.id)
        if machine is None:
            return False
        if machine.link.silent_s:
            raise LinkTimeout(self._machines.why_unresponsive(sandbox.id))
        going_on = await machine.link.activity()
        return not (going_on.processes or going_on.terminals or going_on.connections)

    async def _problem(self, sandbox: Sandbox, machine: Machine) -> str:
        """Explain why the machine does not run; empty if it does. Afterwards it is known whether its guest answers."""
        async with anyio.create_task_group() as tasks:
            if not machine.link.silent_s:
                # A guest that closes or opens no connections may have lost its agent, or only this connection.
                tasks.start_soon(machine.link.answers)
            return await self._machines.problem(sandbox.id)
        raise AssertionError  # unreachable: the block either returns or raises

    async def _awake(self, sandbox: Sandbox) -> Sandbox:
        await self._creations.wait(sandbox.id)
        found = await self._store.get(sandbox.owner, sandbox.id)
        if found is None or found.state is State.DELETED:
            raise _deleted(sandbox)
        return await self._sleeper.wake(found.id) if found.state in {State.ASLEEP, State.RUNNING} else found

    async def _gone(self, sandbox: Sandbox) -> CasemateError:
        found = await self._settled(sandbox)
        if found is None or found.state is State.DELETED:
            return _deleted(sandbox)
        if found.state is State.ASLEEP or self._machines.get(sandbox.id) is not None:
            did = "put to sleep" if found.state is State.ASLEEP else "restarted or restored from a snapshot"
            return Conflict(
                f"Sandbox {sandbox.id} was {did} during the call, which may or may not have taken effect",
                hint="Check, then call again",
            )
        return lost(sandbox, found.reason or "its virtual machine ended")

    async def _settled(self, sandbox: Sandbox) -> Sandbox | None:
        """Return the record once no change of the sandbox is under way: one may still be about to be recorded.

        Raises:
            Conflict: That takes longer than a call should.
        """
        with anyio.move_on_after(_SETTLE_S):
            async with self._transitions.exclusive(sandbox.id):
                return await self._store.find(sandbox.id)
        raise Conflict(
            f"Sandbox {sandbox.id} is being started or changed; the call may or may not have taken effect",
            hint="Wait until it runs, check, then call again",
        )


def _deleted(sandbox: Sandbox) -> NotFound:
    return NotFound(f"Sandbox {sandbox.id} was deleted during the call")
