"""Starts sandboxes again, whatever became of them or their guest: from their sleep, a snapshot, or their disk."""

from __future__ import annotations

import anyio
import structlog
from anyio.abc import TaskGroup

from ..errors import CasemateError, Conflict, Damaged, LinkError, NotFound, SandboxLost, Unavailable
from ..hypervisor.base import Hardware, Hypervisor
from ..machines.checkpoint import DISK, hardware_in
from ..machines.machine import MachineRecord
from ..machines.reboot import boot_again, flush, flush_sleeper
from ..machines.registry import MachineRegistry
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .admission import Admission
from .restore import Restorer
from .single_flight import SingleFlight
from .sleep import Sleeper
from .transitions import Transitions
from .unusable import LOST, check_made

log = structlog.get_logger(__name__)

_RESTART_S = 300
_AGAIN = "Restore one of its snapshots, try again, or delete it"


class Restarter:
    """Starts what has stopped, and what does not respond.

    Args:
        driver: The hypervisor.
        transitions: One change at a time.
        store: The records of the sandboxes.
        machines: The machines that run.
        admission: Who may have a machine.
        sleeper: Wakes what sleeps.
        restorer: Goes back to a snapshot.
        tasks: Where restarts run, so that a caller that goes away does not break one off.
    """

    def __init__(
        self,
        *,
        driver: Hypervisor,
        transitions: Transitions,
        store: SandboxStore,
        machines: MachineRegistry,
        admission: Admission,
        sleeper: Sleeper,
        restorer: Restorer,
        tasks: TaskGroup,
    ) -> None:
        self._driver = driver
        self._transitions = transitions
        self._store = store
        self._machines = machines
        self._admission = admission
        self._sleeper = sleeper
        self._restorer = restorer
        self._flights = SingleFlight(tasks)

    async def restart(self, sandbox_id: str, *, from_snapshot: bool = False) -> Sandbox:
        """Start a sandbox again whatever its guest does, once however many ask; `reason` says what is lost.

        Calls in it are broken off. Its machine is ended without being asked, and what sleeps is not woken before.

        Args:
            sandbox_id: Which.
            from_snapshot: Whether it goes back to the last moment that was kept of it, rather than to its disk.

        Raises:
            Conflict: It is still being made, or no snapshot of it can be restored here.
            SandboxLost: It has no disk.
            LimitExceeded: Its owner's other sandboxes take what it may have.
            HostExhausted: The host lacks memory or disk.
            Unavailable: It did not come up: from a snapshot it is as it was, from its disk it is killed.
        """
        if from_snapshot:
            return await self._flights.run(
                "restart from a snapshot", sandbox_id, self._restart_from_snapshot, within_s=_RESTART_S
            )
        return await self._flights.run("restart", sandbox_id, self._restart, within_s=_RESTART_S)

    async def revive(self, sandbox_id: str) -> Sandbox:
        """Let a sandbox run again, whatever has become of it, with as little lost as can be; `reason` says what.

        Raises:
            Conflict: It is being made.
            SandboxLost: Nothing is left to start from.
            LimitExceeded: Its owner's other sandboxes take what it may have.
            HostExhausted: The host lacks memory or disk.
            Unavailable: The hypervisor failed.
        """
        sandbox = await self._transitions.current(sandbox_id)
        check_made(sandbox)
        if sandbox.state is State.RUNNING and self._machines.get(sandbox_id) is not None:
            return sandbox
        if sandbox.state is State.ASLEEP:
            try:
                record = MachineRecord.read(self._machines.directory(sandbox.machine))
            except Damaged as error:
                return await self._boot(sandbox, f"started from its disk, for {error.message}: {LOST}")
            if record is not None and record.fingerprint == self._driver.fingerprint:
                try:
                    return await self._sleeper.wake(sandbox_id)
                except (Unavailable, LinkError):
                    sandbox = await self._transitions.current(sandbox_id)
                    if sandbox.state is not State.KILLED:
                        raise
        if sandbox.state is State.ASLEEP:
            return await self._boot(sandbox, f"started from its disk, for another hypervisor put it to sleep: {LOST}")
        for snapshot in await self._restorer.loadable(sandbox):
            what = f"started from its newest snapshot, {snapshot.name} ({snapshot.id}): what came after it is lost"
            try:
                return await self._restorer.restore(sandbox, snapshot, reason=what)
            except Damaged as error:
                log.warning("snapshot passed over", sandbox=sandbox_id, reason=str(error))
        return await self._boot(sandbox, f"started from its disk, for it has no snapshot that loads here: {LOST}")

    async def _restart_from_snapshot(self, sandbox_id: str) -> Sandbox:
        sandbox = await self._transitions.current(sandbox_id)
        check_made(sandbox)
        damage = ""
        for snapshot in await self._restorer.loadable(sandbox):
            what = f"restarted from its newest snapshot, {snapshot.name} ({snapshot.id}): what came after it is lost"
            try:
                return await self._restorer.restore(sandbox, snapshot, reason=what)
            except Damaged as error:
                log.warning("snapshot passed over", sandbox=sandbox_id, reason=str(error))
                damage = f": {error.message}"
        raise Conflict(
            f"Sandbox {sandbox_id} has no snapshot that can be restored here{damage}", hint="Restart it from its disk"
        )

    async def _boot(self, sandbox: Sandbox, reason: str) -> Sandbox:
        async with self._transitions.alone(sandbox.id):
            sandbox = await self._transitions.current(sandbox.id)
            if self._machines.get(sandbox.id) is not None:
                return sandbox
            check_made(sandbox)
            hardware, machine_id = await anyio.to_thread.run_sync(self._left, sandbox)
            await self._admission.readmit(sandbox, sandbox.machine)
            try:
                machine = await boot_again(
                    self._driver, self._machines, sandbox.machine, hardware, machine_id, hostname=sandbox.name
                )
            except BaseException:
                self._admission.release(sandbox.id)
                raise
            return await self._transitions.up(sandbox.id, machine, reason=reason)

    async def _restart(self, sandbox_id: str) -> Sandbox:
        async with self._transitions.alone(sandbox_id):
            sandbox = await self._transitions.current(sandbox_id)
            check_made(sandbox)
            machine = self._machines.get(sandbox_id)
            if machine is not None:
                hardware, machine_id = machine.hardware, machine.machine_id
            else:
                hardware, machine_id = await anyio.to_thread.run_sync(self._left, sandbox)
            await self._admission.readmit(sandbox, sandbox.machine)
            if machine is not None:
                await flush(machine)
            # Before anything is lost: whatever breaks this off leaves a sandbox that is known to have no machine.
            await self._store.change(sandbox_id, lambda found: self._transitions.ended(found, "its restart had begun"))
            try:
                await self._machines.end(sandbox_id)
                await flush_sleeper(self._driver, self._machines.directory(sandbox.machine))
                self._admission.running(sandbox)  # also if its machine died just now, and took the promise along
                booted = await boot_again(
                    self._driver, self._machines, sandbox.machine, hardware, machine_id, hostname=sandbox.name
                )
                return await self._transitions.up(sandbox_id, booted, reason=f"restarted from its disk: {LOST}")
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    self._admission.release(sandbox_id)
                    await self._not_restarted(sandbox, error)
                raise

    async def _not_restarted(self, sandbox: Sandbox, error: BaseException) -> None:
        """Write down why a sandbox has not come up again.

        Raises:
            Unavailable: The same, with what its owner may do, unless the server ends.
            NotFound: It was deleted meanwhile.
        """
        if isinstance(error, NotFound):
            return
        known = isinstance(error, CasemateError | OSError)
        why = str(error).rstrip(".") if known else "the server ended meanwhile"
        why = f"it could not be restarted from its disk: {why or 'its hypervisor cannot be ended'}"
        try:
            await self._store.change(sandbox.id, lambda found: self._transitions.ended(found, why))
        except NotFound:
            raise
        except CasemateError as failure:
            log.warning("failed restart not recorded", sandbox=sandbox.id, error=failure.message)
        if known:
            raise Unavailable(f"Sandbox {sandbox.id} ({sandbox.name}) is killed: {why}", hint=_AGAIN) from error

    def _left(self, sandbox: Sandbox) -> tuple[Hardware, str]:
        """What a sandbox's machine was made of, and what its guest called itself, if that is known."""
        directory = self._machines.directory(sandbox.machine)
        try:
            record = MachineRecord.read(directory)
        except Damaged as error:
            log.warning("started without its record", sandbox=sandbox.id, reason=str(error))
            record = None
        if not (directory / DISK).exists():
            raise SandboxLost(f"Sandbox {sandbox.id} has no disk to start from", hint="Delete it and make a new one")
        if record is None:
            return hardware_in(directory, cpu=sandbox.cpu, mem=sandbox.mem, tsc_khz=0), ""
        return record.hardware, record.machine_id
