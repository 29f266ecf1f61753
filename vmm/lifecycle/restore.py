"""Restores sandboxes from snapshots in place: the old machine ends once the new one is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
import structlog

from storage.ids import new_id

from ..errors import CasemateError, Damaged
from ..hypervisor.base import Hypervisor
from ..machines.checkpoint import Checkpoint, check_driver
from ..machines.clone import Cloner, end
from ..machines.machine import Machine, MachineRecord, remove
from ..machines.registry import MachineRegistry
from ..machines.snapshots import Snapshot, Snapshots
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.store import SandboxStore
from .admission import Admission
from .attachments import Attachments
from .transitions import Transitions
from .unusable import check_made, check_same

log = structlog.get_logger(__name__)


class Restorer:
    """Restores sandboxes from snapshots.

    Args:
        driver: The hypervisor.
        transitions: Allow one change of a sandbox at a time.
        store: The records of the sandboxes.
        machines: The machines that run.
        cloner: Makes new machines.
        snapshots: Snapshots to restore from.
        admission: Checks limits.
        attachments: Which volumes they have.
        on_start: Called with how each machine got its memory.
    """

    def __init__(
        self,
        *,
        driver: Hypervisor,
        transitions: Transitions,
        store: SandboxStore,
        machines: MachineRegistry,
        cloner: Cloner,
        snapshots: Snapshots,
        admission: Admission,
        attachments: Attachments,
        on_start: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._transitions = transitions
        self._store = store
        self._machines = machines
        self._cloner = cloner
        self._snapshots = snapshots
        self._admission = admission
        self._attachments = attachments
        self._on_start = on_start

    async def source(self, snapshot: Snapshot) -> Checkpoint:
        """Return what machines are made from, if this host can load it.

        Raises:
            Conflict: Another hypervisor saved it.
            Unavailable: A file of it is damaged.
        """
        snapshot.check()
        check_driver(snapshot.driver, self._driver)
        return await self._snapshots.checkpoint(snapshot)

    async def restore(self, sandbox: Sandbox, snapshot: Snapshot, *, reason: str = "") -> Sandbox:
        """Restore a sandbox from a snapshot, in any state. If that fails, it is as it was.

        Args:
            sandbox: The sandbox.
            snapshot: The snapshot.
            reason: What its owner should know afterwards.

        Raises:
            Conflict: The snapshot has another image, size or hypervisor, or the sandbox is being created.
            Unavailable: A file of the snapshot is damaged, or the hypervisor failed.
            HostExhausted: The host lacks memory or disk space.
        """
        snapshot.check()
        check_same(sandbox, snapshot)
        checkpoint = await self.source(snapshot)
        async with self._transitions.alone(sandbox.id):
            sandbox = await self._transitions.current(sandbox.id)
            check_made(sandbox)
            old = self._machines.get(sandbox.id)
            name = new_id()
            # From here on the memory is promised to the new machine: the old one may die and be recorded meanwhile.
            await self._admission.readmit(sandbox, name)
            machine: Machine | None = None
            try:
                machine = await self._cloner.clone(
                    checkpoint, name, hostname=sandbox.name, machine_id=self._machine_id(sandbox)
                )
                restored = await self._store.change(
                    sandbox.id, lambda found: self._transitions.running(found, machine, base=snapshot.id, reason=reason)
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
                self._on_start(machine.running.memory)
                try:
                    if old is not None:
                        await self._attachments.flush(old)
                        await old.stop()
                    else:
                        await self._machines.end_orphans(sandbox.machine)
                    await remove(self._machines.directory(sandbox.machine))
                except CasemateError as error:  # the sandbox is restored; the next start removes the rest
                    log.warning("earlier machine not removed", sandbox=sandbox.id, reason=str(error))
                restored = await self._with_volumes(restored, machine)
            await self._machines.networked(sandbox.id)
            return restored

    async def loadable(self, sandbox: Sandbox) -> list[Snapshot]:
        """List the snapshots of a sandbox that this host can load, newest first."""
        return [
            snapshot
            for snapshot in await self._snapshots.owned(sandbox.owner)
            if snapshot.sandbox == sandbox.id and snapshot.driver == self._driver.fingerprint
        ]

    async def _with_volumes(self, sandbox: Sandbox, machine: Machine) -> Sandbox:
        """Give a restored sandbox its volumes, as they are now: the machine before it had them until it ended."""
        missing = await self._attachments.bring_back(sandbox.id, machine)
        if not missing:
            return sandbox
        reason = f"{sandbox.reason}; {missing}" if sandbox.reason else missing
        return await self._store.change(sandbox.id, lambda found: replace(found, reason=reason))

    def _machine_id(self, sandbox: Sandbox) -> str:
        try:
            record = MachineRecord.read(self._machines.directory(sandbox.machine))
        except Damaged:
            return ""  # restoring a snapshot does not need the record
        return record.machine_id if record is not None else ""
