"""The lives of sandboxes that exist: they fall asleep and wake, are put back to a snapshot, die, and start again.

Each change ends with one write of the record. What is broken off before that leaves the sandbox as it was; the next
start of the server brings records and machines together again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from storage.ids import new_id

from ..errors import CasemateError, Conflict, Damaged, LinkError, NotFound, SandboxLost, Unavailable
from ..hypervisor.base import Hardware, Hypervisor
from ..machines import suspend
from ..machines.checkpoint import DISK, Saved, check_driver, hardware_in
from ..machines.clone import Cloner, end
from ..machines.machine import Machine, MachineRecord, remove
from ..machines.registry import Machines
from ..machines.save import save
from ..machines.snapshots import Snapshot, Snapshots
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import Records
from .activity import Activity
from .admission import Admission
from .keyed_lock import Turns
from .restart import boot_again, flush, flush_sleeper
from .single_flight import SingleFlight
from .unusable import LOST, check_made, check_same, unreachable

log = structlog.get_logger(__name__)

_WAKE_S = 120
_RESTART_S = 300
_AGAIN = "Restore one of its snapshots, try again, or delete it"


class Lives:
    """Changes of sandboxes' states, each sandbox's one after the other.

    Args:
        driver: The hypervisor.
        records: The sandboxes' records.
        machines: The machines that run.
        cloner: Makes them.
        snapshots: What sandboxes can be put back to.
        admission: Who may have a machine.
        activity: Who is in use.
        clock: Milliseconds since the epoch.
        tasks: Where wakes run, so that a caller that goes away does not break one off.
        started: Told how each machine came by its memory.
    """

    def __init__(
        self,
        *,
        driver: Hypervisor,
        records: Records,
        machines: Machines,
        cloner: Cloner,
        snapshots: Snapshots,
        admission: Admission,
        activity: Activity,
        clock: Callable[[], int],
        tasks: TaskGroup,
        started: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._records = records
        self._machines = machines
        self._cloner = cloner
        self._snapshots = snapshots
        self._admission = admission
        self._activity = activity
        self._clock = clock
        self._started = started
        self._turns = Turns()
        self._flights = SingleFlight(tasks)
        self._unrecorded: dict[str, tuple[str, str]] = {}

    def turn(self, sandbox_id: str) -> AbstractAsyncContextManager[None]:
        """The sandbox's turn, for what must not meet another change of its life."""
        return self._turns.of(sandbox_id)

    async def retire(self, seen: Sandbox, used_ms: int) -> None:
        """Put a sandbox to sleep that nobody has used since a moment, if its record is still the one that was seen.

        Raises:
            Conflict: It was used or changed since.
            HostExhausted: The host's disk is full; it runs on.
            Unavailable: The hypervisor could not save it; it runs on, if it lives.
        """
        async with self._turns.of(seen.id), self._activity.claimed(seen.id, used_ms):
            if (await self._current(seen.id)).version != seen.version:
                raise Conflict(f"Sandbox {seen.id} was changed meanwhile")
            await self._sleep(seen, wake_at_start=False)

    async def sleep(self, sandbox_id: str, *, wake_at_start: bool = False) -> Sandbox:
        """Put a running sandbox to sleep with its memory; one that sleeps goes on suspend. Calls in it are broken off.

        Args:
            sandbox_id: Which.
            wake_at_start: Whether the next start of the server wakes it.

        Raises:
            Conflict: It does not run.
            HostExhausted: The host's disk is full; it runs on.
            Unavailable: The hypervisor could not save it; it runs on, if it lives.
        """
        async with self._turns.of(sandbox_id), self._activity.closed(sandbox_id):
            sandbox = await self._current(sandbox_id)
            check_made(sandbox)
            if sandbox.state is State.ASLEEP:
                return sandbox
            return await self._sleep(sandbox, wake_at_start=wake_at_start)

    async def wake(self, sandbox_id: str) -> Sandbox:
        """Wake a sandbox, once however many ask; one that runs goes on.

        Raises:
            Conflict: Another hypervisor put it to sleep, or it cannot wake from its state.
            SandboxLost: Its machine has died.
            LimitExceeded: Its owner's other sandboxes take what it may have.
            HostExhausted: The host lacks memory.
            Unavailable: The hypervisor failed, or it takes too long.
        """
        return await self._flights.run("wake", sandbox_id, self._wake, within_s=_WAKE_S)

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

    async def moment(self, sandbox: Sandbox, target: Path) -> Saved:
        """Save what a running or sleeping sandbox is now into an existing empty directory. To be called in its turn.

        Raises:
            Conflict: It is being made.
            SandboxLost: It neither runs nor sleeps.
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor could not save it.
        """
        check_made(sandbox)
        self._admission.check_disk(target)
        machine = self._machines.get(sandbox.id)
        if machine is not None:
            with machine.link.held():
                return await save(machine, target)
        if sandbox.state is not State.ASLEEP:
            raise unreachable(await self._current(sandbox.id))
        return await suspend.copy_sleeper(self._machines.directory(sandbox.machine), target)

    async def source(self, snapshot: Snapshot) -> Saved:
        """What machines are made of, if this host can.

        Raises:
            Conflict: Another hypervisor saved it.
            Unavailable: A file of it is damaged.
        """
        snapshot.check()
        check_driver(snapshot.driver, self._driver)
        return await self._snapshots.saved(snapshot)

    async def restore(self, sandbox: Sandbox, snapshot: Snapshot, *, reason: str = "") -> Sandbox:
        """Put a sandbox back to a snapshot, whatever state it is in. If that fails, it is as it was.

        Args:
            sandbox: Which.
            snapshot: To what.
            reason: What its owner should know of it afterwards.

        Raises:
            Conflict: The snapshot is of another image or size, or another hypervisor's; or the sandbox is being made.
            Unavailable: A file of the snapshot is damaged, or the hypervisor failed.
            HostExhausted: The host lacks memory or disk.
        """
        snapshot.check()
        check_same(sandbox, snapshot)
        saved = await self.source(snapshot)
        async with self._turns.of(sandbox.id), self._activity.closed(sandbox.id):
            sandbox = await self._current(sandbox.id)
            check_made(sandbox)
            old = self._machines.get(sandbox.id)
            name = new_id()
            # From here on the promise is the new machine's: the old one may die and be taken note of meanwhile.
            await self._admission.readmit(sandbox, name)
            machine: Machine | None = None
            try:
                machine = await self._cloner.clone(
                    saved, name, hostname=sandbox.name, machine_id=self._machine_id(sandbox)
                )
                restored = await self._records.change(
                    sandbox.id, lambda found: self._running(found, machine, base=snapshot.id, reason=reason)
                )
            except BaseException:
                with anyio.CancelScope(shield=True):
                    try:
                        if machine is not None:
                            await end(machine)
                    finally:
                        if old is not None and self._machines.get(sandbox.id) is old:
                            self._admission.running(sandbox)
                        else:
                            self._admission.release(sandbox.id)
                raise
            with anyio.CancelScope(shield=True):
                old = self._machines.detach(sandbox.id)
                self._machines.attach(sandbox.id, machine)
                self._started(machine.running.memory)
                try:
                    if old is not None:
                        await old.stop()
                    else:
                        await self._machines.end_strays(sandbox.machine)
                    await remove(self._machines.directory(sandbox.machine))
                except CasemateError as error:  # it is put back; what is left there, the next start removes
                    log.warning("earlier machine not removed", sandbox=sandbox.id, reason=str(error))
            return restored

    async def revive(self, sandbox_id: str) -> Sandbox:
        """Let a sandbox run again, whatever has become of it, with as little lost as can be; `reason` says what.

        Raises:
            Conflict: It is being made.
            SandboxLost: Nothing is left to start from.
            LimitExceeded: Its owner's other sandboxes take what it may have.
            HostExhausted: The host lacks memory or disk.
            Unavailable: The hypervisor failed.
        """
        sandbox = await self._current(sandbox_id)
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
                    return await self.wake(sandbox_id)
                except (Unavailable, LinkError):
                    sandbox = await self._current(sandbox_id)
                    if sandbox.state is not State.KILLED:
                        raise
        if sandbox.state is State.ASLEEP:
            return await self._boot(sandbox, f"started from its disk, for another hypervisor put it to sleep: {LOST}")
        for snapshot in await self._loadable(sandbox):
            what = f"started from its newest snapshot, {snapshot.name} ({snapshot.id}): what came after it is lost"
            try:
                return await self.restore(sandbox, snapshot, reason=what)
            except Damaged as error:
                log.warning("snapshot passed over", sandbox=sandbox_id, reason=str(error))
        return await self._boot(sandbox, f"started from its disk, for it has no snapshot that loads here: {LOST}")

    def runs(self, sandbox: Sandbox) -> None:
        """Take note of a sandbox whose machine runs already, from an earlier server."""
        self._admission.running(sandbox)

    async def slept(self, sandbox_id: str) -> None:
        """Record that a sandbox sleeps, whose server ended before it could."""
        await self._records.change(sandbox_id, self._sleeping)

    async def woke(self, sandbox_id: str, machine: Machine) -> None:
        """Record that a sandbox runs, whose server ended while it woke it, or could not take it over."""

        def running(found: Sandbox) -> Sandbox:
            reason = "" if found.state is State.ERROR else found.reason
            return self._running(found, machine, base=found.base, reason=reason)

        self._admission.running(await self._records.change(sandbox_id, running))

    async def failed(self, sandbox: Sandbox, reason: str, *, holds_memory: bool) -> None:
        """Record that a sandbox can be used only once it was started again.

        Args:
            sandbox: Which.
            reason: What its owner should know.
            holds_memory: Whether a process of it is there still.
        """
        if holds_memory:
            self._admission.running(sandbox)
        if sandbox.state.may_become(State.ERROR):
            await self._records.change(
                sandbox.id, lambda found: found.moved(State.ERROR, now_ms=self._clock(), reason=reason)
            )

    async def died(self, sandbox_id: str, machine: str, reason: str) -> None:
        """Take note of a machine's end that nobody asked for; a store that fails is told later."""
        self._admission.release(sandbox_id, machine)
        log.warning("machine died", sandbox=sandbox_id, reason=reason)
        self._unrecorded[sandbox_id] = (machine, reason)
        try:
            await self.record_deaths()
        except CasemateError as error:
            log.warning("death not recorded yet", sandbox=sandbox_id, error=error.message)

    async def record_deaths(self) -> None:
        """Write down the deaths that could not be written before."""
        for sandbox_id, death in list(self._unrecorded.items()):
            if not await self._is_recorded(sandbox_id, *death):
                continue  # the next round looks at it again
            if self._unrecorded.get(sandbox_id) == death:
                del self._unrecorded[sandbox_id]

    async def _is_recorded(self, sandbox_id: str, machine: str, reason: str) -> bool:
        try:
            sandbox = await self._records.find(sandbox_id)
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
            await self._records.save(sandbox.moved(State.KILLED, now_ms=self._clock(), reason=reason))
        except Conflict:
            return False  # changed meanwhile
        return True

    async def _sleep(self, sandbox: Sandbox, *, wake_at_start: bool) -> Sandbox:
        if sandbox.state is not State.RUNNING:
            raise Conflict(f"Sandbox {sandbox.id} is {sandbox.state}, only a running one can sleep")
        machine = self._machines.get(sandbox.id)
        if machine is None:
            raise unreachable(sandbox)
        self._machines.detach(sandbox.id)
        try:
            with machine.link.held():
                await suspend.fall_asleep(machine)
        except BaseException:
            self._machines.attach(sandbox.id, machine)
            raise
        self._admission.release(sandbox.id)
        with anyio.CancelScope(shield=True):  # it sleeps now, whoever has lost patience
            sandbox = await self._records.change(
                sandbox.id, lambda found: replace(self._sleeping(found), wake_at_start=wake_at_start)
            )
        log.info("asleep", sandbox=sandbox.id)
        return sandbox

    async def _wake(self, sandbox_id: str) -> Sandbox:
        async with self._turns.of(sandbox_id):
            sandbox = await self._current(sandbox_id)
            if self._machines.get(sandbox_id) is not None:
                return sandbox
            directory = self._machines.directory(sandbox.machine)
            # A record that says "running" may be late: the store failed when its machine fell asleep.
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
                        await self.died(sandbox_id, sandbox.machine, "its virtual machine failed while it was woken")
                raise
            return await self._up(sandbox_id, machine)

    async def _up(self, sandbox_id: str, machine: Machine, *, reason: str = "") -> Sandbox:
        """Record that a sandbox runs on a machine in its own directory, or end that as if it had not been."""
        try:
            sandbox = await self._records.change(
                sandbox_id, lambda found: self._running(found, machine, base=found.base, reason=reason)
            )
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                self._admission.release(sandbox_id)
                if isinstance(error, NotFound):
                    await end(machine)
                else:
                    await suspend.fall_asleep(machine)
            raise
        self._machines.attach(sandbox_id, machine)
        self._started(machine.running.memory)
        return sandbox

    def _sleeping(self, found: Sandbox) -> Sandbox:
        now = self._clock()
        return lease.asleep(found.moved(State.ASLEEP, now_ms=now), now)

    def _running(self, found: Sandbox, machine: Machine | None, *, base: str, reason: str) -> Sandbox:
        assert machine is not None
        if found.state is State.DELETED:
            raise NotFound(f"There is no sandbox {found.id} any more", hint="List the sandboxes, or create one")
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

    async def _loadable(self, sandbox: Sandbox) -> list[Snapshot]:
        """The moments that were kept of a sandbox and that this host can go back to, the last one first."""
        return [
            snapshot
            for snapshot in await self._snapshots.owned(sandbox.owner)
            if snapshot.sandbox == sandbox.id and snapshot.driver == self._driver.fingerprint
        ]

    async def _restart_from_snapshot(self, sandbox_id: str) -> Sandbox:
        sandbox = await self._current(sandbox_id)
        check_made(sandbox)
        damage = ""
        for snapshot in await self._loadable(sandbox):
            what = f"restarted from its newest snapshot, {snapshot.name} ({snapshot.id}): what came after it is lost"
            try:
                return await self.restore(sandbox, snapshot, reason=what)
            except Damaged as error:
                log.warning("snapshot passed over", sandbox=sandbox_id, reason=str(error))
                damage = f": {error.message}"
        raise Conflict(
            f"Sandbox {sandbox_id} has no snapshot that can be restored here{damage}", hint="Restart it from its disk"
        )

    async def _boot(self, sandbox: Sandbox, reason: str) -> Sandbox:
        async with self._turns.of(sandbox.id), self._activity.closed(sandbox.id):
            sandbox = await self._current(sandbox.id)
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
            return await self._up(sandbox.id, machine, reason=reason)

    async def _restart(self, sandbox_id: str) -> Sandbox:
        async with self._turns.of(sandbox_id), self._activity.closed(sandbox_id):
            sandbox = await self._current(sandbox_id)
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
            await self._records.change(sandbox_id, lambda found: self._ended(found, "its restart had begun"))
            try:
                await self._machines.end(sandbox_id)
                await flush_sleeper(self._driver, self._machines.directory(sandbox.machine))
                self._admission.running(sandbox)  # also if its machine died just now, and took the promise along
                booted = await boot_again(
                    self._driver, self._machines, sandbox.machine, hardware, machine_id, hostname=sandbox.name
                )
                return await self._up(sandbox_id, booted, reason=f"restarted from its disk: {LOST}")
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
            await self._records.change(sandbox.id, lambda found: self._ended(found, why))
        except NotFound:
            raise
        except CasemateError as failure:
            log.warning("failed restart not recorded", sandbox=sandbox.id, error=failure.message)
        if known:
            raise Unavailable(f"Sandbox {sandbox.id} ({sandbox.name}) is killed: {why}", hint=_AGAIN) from error

    def _ended(self, found: Sandbox, reason: str) -> Sandbox:
        """A sandbox without a machine, if it is not deleted and has not got another one meanwhile."""
        if found.state is State.DELETED:
            raise NotFound(f"There is no sandbox {found.id} any more", hint="List the sandboxes, or create one")
        now = self._clock()
        if found.state.may_become(State.KILLED):
            return found.moved(State.KILLED, now_ms=now, reason=reason)
        return replace(found, reason=reason, updated_ms=now)

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

    def _machine_id(self, sandbox: Sandbox) -> str:
        try:
            record = MachineRecord.read(self._machines.directory(sandbox.machine))
        except Damaged:
            return ""  # it is to be put back to a snapshot, which needs no record
        return record.machine_id if record is not None else ""

    async def _current(self, sandbox_id: str) -> Sandbox:
        sandbox = await self._records.find(sandbox_id)
        if sandbox is None or sandbox.state is State.DELETED:
            raise NotFound(f"There is no sandbox {sandbox_id} any more", hint="List the sandboxes, or create one")
        return sandbox
