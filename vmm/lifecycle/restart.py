"""Starts sandboxes again in any state: from their sleep, a snapshot, or their disk."""

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
    """Starts sandboxes that have stopped or do not answer.

    Args:
        driver: The hypervisor.
        transitions: Allow one change of a sandbox at a time.
        store: The records of the sandboxes.
        machines: The machines that run.
        admission: Checks limits.
        sleeper: Wakes sandboxes.
        restorer: Restores snapshots.
        tasks: Runs restarts, so that they finish even if the caller goes away.
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
        """Start a sandbox again, even if its guest hangs, once for all concurrent callers; `reason` says what is lost.

        Interrupts calls in it. Ends its machine without the guest's help; one that sleeps is not woken first.

        Args:
            sandbox_id: The sandbox.
            from_snapshot: Whether to start from its newest snapshot instead of its disk.

        Raises:
            Conflict: It is still being created, or no snapshot of it can be restored here.
            SandboxLost: It has no disk.
            LimitExceeded: Its owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory or disk space.
            Unavailable: It did not start: after a snapshot it is as it was, after its disk it is killed.
        """
        if from_snapshot:
            return await self._flights.run(
                "restart from a snapshot", sandbox_id, self._restart_from_snapshot, within_s=_RESTART_S
            )
        return await self._flights.run("restart", sandbox_id, self._restart, within_s=_RESTART_S)

    async def revive(self, sandbox_id: str) -> Sandbox:
        """Make a sandbox run again in any state, losing as little as possible; `reason` says what is lost.

        Raises:
            Conflict: It is being created.
            SandboxLost: Nothing is left to start from.
            LimitExceeded: Its owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory or disk space.
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
                return await self._boot(sandbox, f"started from its disk, because of this: {error.message}; {LOST}")
            if record is not None and record.fingerprint == self._driver.fingerprint:
                try:
                    return await self._sleeper.wake(sandbox_id)
                except (Unavailable, LinkError):
                    sandbox = await self._transitions.current(sandbox_id)
                    if sandbox.state is not State.KILLED:
                        raise
        if sandbox.state is State.ASLEEP:
            return await self._boot(
                sandbox, f"started from its disk, because another hypervisor put it to sleep: {LOST}"
            )
        for snapshot in await self._restorer.loadable(sandbox):
            what = f"started from its newest snapshot, {snapshot.name} ({snapshot.id}): what came after it is lost"
            try:
                return await self._restorer.restore(sandbox, snapshot, reason=what)
            except Damaged as error:
                log.warning("snapshot skipped", sandbox=sandbox_id, reason=str(error))
        return await self._boot(sandbox, f"started from its disk, because it has no snapshot that loads here: {LOST}")

    async def _restart_from_snapshot(self, sandbox_id: str) -> Sandbox:
        sandbox = await self._transitions.current(sandbox_id)
        check_made(sandbox)
        damage = ""
        for snapshot in await self._restorer.loadable(sandbox):
            what = f"restarted from its newest snapshot, {snapshot.name} ({snapshot.id}): what came after it is lost"
            try:
                return await self._restorer.restore(sandbox, snapshot, reason=what)
            except Damaged as error:
                log.warning("snapshot skipped", sandbox=sandbox_id, reason=str(error))
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
            hardware, machine_id = await anyio.to_thread.run_sync(self._last_machine, sandbox)
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
                hardware, machine_id = await anyio.to_thread.run_sync(self._last_machine, sandbox)
            await self._admission.readmit(sandbox, sandbox.machine)
            if machine is not None:
                await flush(machine)
            # Before anything is lost: if this is interrupted, the record says that the sandbox has no machine.
            await self._store.change(sandbox_id, lambda found: self._transitions.ended(found, "its restart had begun"))
            try:
                await self._machines.end(sandbox_id)
                await flush_sleeper(self._driver, self._machines.directory(sandbox.machine))
                self._admission.running(sandbox)  # again, in case its machine died just now and released the memory
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
        """Record why a sandbox did not start.

        Raises:
            Unavailable: The same reason, with what its owner can do, unless the server is stopping.
            NotFound: It was deleted in the meantime.
        """
        if isinstance(error, NotFound):
            return
        known = isinstance(error, CasemateError | OSError)
        why = str(error).rstrip(".") if known else "the server stopped in the meantime"
        why = f"it could not be restarted from its disk: {why or 'its hypervisor process does not end'}"
        try:
            await self._store.change(sandbox.id, lambda found: self._transitions.ended(found, why))
        except NotFound:
            raise
        except CasemateError as failure:
            log.warning("failed restart not recorded", sandbox=sandbox.id, error=failure.message)
        if known:
            raise Unavailable(f"Sandbox {sandbox.id} ({sandbox.name}) is killed: {why}", hint=_AGAIN) from error

    def _last_machine(self, sandbox: Sandbox) -> tuple[Hardware, str]:
        """Read the hardware of a sandbox's last machine, and the machine id of its guest, if they are known."""
        directory = self._machines.directory(sandbox.machine)
        try:
            record = MachineRecord.read(directory)
        except Damaged as error:
            log.warning("started without its record", sandbox=sandbox.id, reason=str(error))
            record = None
        if not (directory / DISK).exists():
            raise SandboxLost(f"Sandbox {sandbox.id} has no disk to start from", hint="Delete it and create a new one")
        if record is None:
            return hardware_in(directory, cpu=sandbox.cpu, mem=sandbox.mem, tsc_khz=0), ""
        return record.hardware, record.machine_id
