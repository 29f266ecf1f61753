"""Saves checkpoints of sandboxes, keeps them as snapshots, and deletes those that nothing descends from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from storage.ids import new_id

from ..errors import Conflict
from ..machines import suspend
from ..machines.checkpoint import Checkpoint
from ..machines.registry import MachineRegistry
from ..machines.save import save
from ..machines.snapshots import Snapshot, Snapshots
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .admission import Admission
from .attachments import Attachments
from .forks import child_names
from .keyed_lock import KeyedLock
from .transitions import Transitions
from .unusable import check_made, unreachable


class Snapshotter:
    """Takes and deletes snapshots.

    Args:
        snapshots: The snapshots of this host.
        store: The records of the sandboxes.
        machines: The machines that run.
        transitions: Allow one change of a sandbox at a time.
        admission: Checks limits.
        attachments: Which volumes they have.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        snapshots: Snapshots,
        store: SandboxStore,
        machines: MachineRegistry,
        transitions: Transitions,
        admission: Admission,
        attachments: Attachments,
        clock: Callable[[], int],
    ) -> None:
        self._snapshots = snapshots
        self._store = store
        self._machines = machines
        self._transitions = transitions
        self._admission = admission
        self._attachments = attachments
        self._clock = clock
        self._turns = KeyedLock()
        self._being_taken: dict[str, dict[str, str]] = {}

    async def checkpoint(
        self, sandbox: Sandbox, target: Path, *, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> Checkpoint:
        """Save a running or sleeping sandbox, without its volumes. The caller holds its lock.

        Args:
            sandbox: The sandbox.
            target: An existing empty directory.
            meanwhile: Called while a running sandbox has no volumes, which are then as they were at that moment.

        Raises:
            Conflict: It is being created, or programs in it use a volume; the message names them.
            SandboxLost: It is neither running nor asleep.
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor could not save it.
        """
        check_made(sandbox)
        self._admission.check_disk(target)
        machine = self._machines.get(sandbox.id)
        if machine is not None:
            async with self._attachments.apart(sandbox.id, machine):
                with machine.link.held():
                    checkpoint = await save(machine, target)
                if meanwhile is not None:
                    await meanwhile()
                return checkpoint
        if sandbox.state is not State.ASLEEP:
            raise unreachable(await self._transitions.current(sandbox.id))
        return await suspend.copy_sleeper(self._machines.directory(sandbox.machine), target)

    async def take(self, sandbox: Sandbox, *, name: str, labels: Mapping[str, str], created_by: str) -> Snapshot:
        """Take a snapshot of a sandbox. The caller holds its lock. On failure nothing of it is left.

        Raises:
            SandboxLost: It is neither running nor asleep.
            LimitExceeded: The owner has reached the limit on snapshots.
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor could not save it.
        """
        snapshot_id = new_id()
        async with self._counted(sandbox, snapshot_id, name) as chosen:
            draft = await self._snapshots.draft(snapshot_id)
            try:
                checkpoint = await self.checkpoint(sandbox, draft)
                snapshot = Snapshot(
                    id=snapshot_id,
                    owner=sandbox.owner,
                    sandbox=sandbox.id,
                    sandbox_name=sandbox.name,
                    name=chosen,
                    parent=sandbox.base,
                    image=sandbox.image,
                    cpu=sandbox.cpu,
                    mem=sandbox.mem,
                    disk=sandbox.disk,
                    driver=checkpoint.fingerprint,
                    labels=dict(labels),
                    env=dict(sandbox.env),
                    network=sandbox.network,
                    created_ms=self._clock(),
                    created_by=created_by,
                )
                return await self._snapshots.publish(snapshot, draft)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._snapshots.discard(draft)
                raise

    async def delete(self, snapshot: Snapshot) -> None:
        """Delete a snapshot.

        Raises:
            Conflict: Snapshots or sandboxes descend from it; the message names them.
        """
        children = [
            f"snapshot {other.name} ({other.id})"
            for other in await self._snapshots.owned(snapshot.owner)
            if other.parent == snapshot.id
        ]
        children += [
            f"sandbox {sandbox.name} ({sandbox.id})"
            for sandbox in await self._store.owned(snapshot.owner)
            if sandbox.base == snapshot.id and sandbox.id != snapshot.sandbox
        ]
        if children:
            raise Conflict(
                f"Snapshot {snapshot.name} ({snapshot.id}) has children: {', '.join(children)}",
                hint="Delete these first",
            )
        await self._snapshots.remove(snapshot)

    @asynccontextmanager
    async def _counted(self, sandbox: Sandbox, snapshot_id: str, name: str) -> AsyncGenerator[str]:
        """Count a snapshot while it is taken, and reserve a name for it that no other snapshot of the owner has."""
        owner = sandbox.owner
        # One at a time: each of many concurrent requests must see those before it.
        async with self._turns.of(owner):
            names = {snapshot.id: snapshot.name for snapshot in await self._snapshots.owned(owner)}
            names |= self._being_taken.get(owner, {})
            await self._admission.check_snapshot(owner, len(names))
            chosen = name or child_names(sandbox.name, set(names.values()), 1)[0]
            self._being_taken.setdefault(owner, {})[snapshot_id] = chosen
        try:
            yield chosen
        finally:
            del self._being_taken[owner][snapshot_id]
            if not self._being_taken[owner]:
                del self._being_taken[owner]
