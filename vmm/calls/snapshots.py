"""Calls that keep the state of a sandbox, restore it, and make copies of it: snapshots and forks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio

from storage.ids import new_id
from storage.shown import shown

from ..disk.copy import copy_sparse
from ..errors import Conflict, InvalidInput
from ..lifecycle.create import Creator
from ..lifecycle.forks import Fork, ForkedVolume, ForkVolumes, check_count
from ..lifecycle.restore import Restorer
from ..lifecycle.snapshot import Snapshotter
from ..lifecycle.transitions import Transitions
from ..lifecycle.unusable import unreachable
from ..machines.clone import no_progress
from ..machines.snapshots import Snapshot, Snapshots
from ..machines.templates import Report
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.spec import check_labels, check_name
from ..volumes.files import VolumeFiles
from ..volumes.store import VolumeStore
from ..volumes.volume import Volume
from .ownership import Ownership


class SnapshotCalls:
    """What an owner may do with snapshots and forks of a sandbox.

    Args:
        ownership: Finds the owner's sandboxes.
        transitions: Allow one change of a sandbox at a time.
        snapshots: The snapshots of this host.
        snapshotter: Takes and deletes them.
        restorer: Restores sandboxes from them.
        creator: Makes forks.
        volumes: The records of the volumes.
        files: The volumes' files.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        transitions: Transitions,
        snapshots: Snapshots,
        snapshotter: Snapshotter,
        restorer: Restorer,
        creator: Creator,
        volumes: VolumeStore,
        files: VolumeFiles,
    ) -> None:
        self._ownership = ownership
        self._transitions = transitions
        self._snapshots = snapshots
        self._snapshotter = snapshotter
        self._restorer = restorer
        self._creator = creator
        self._volumes = volumes
        self._files = files

    async def take(
        self, owner: str, ref: str, *, name: str = "", labels: Mapping[str, str] | None = None, created_by: str = ""
    ) -> Snapshot:
        """Keep the current state of a running or sleeping sandbox, which goes on with its open streams.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            name: DNS-1123 subdomain; the sandbox's name with a number if empty.
            labels: At most 5 short pairs.
            created_by: Opaque id of the user.

        Raises:
            InvalidInput: A value is not allowed.
            SandboxLost: It is neither running nor asleep.
            LimitExceeded: The owner has reached the limit on snapshots.
            HostExhausted: The host's disk is full; the sandbox goes on.
            Unavailable: The hypervisor could not save it.
        """
        if name:
            check_name(name)
        check_labels(labels or {})
        sandbox = await self._ownership.made(owner, ref)
        async with self._transitions.exclusive(sandbox.id):
            sandbox = await self._ownership.get(owner, sandbox.id)
            return await self._snapshotter.take(sandbox, name=name, labels=labels or {}, created_by=created_by)

    async def list(self, owner: str, *, sandbox: str = "") -> tuple[Snapshot, ...]:
        """List the owner's snapshots, newest first; with a sandbox given, by id or name, only those of it."""
        owned = await self._snapshots.owned(owner)
        if not sandbox:
            return tuple(owned)
        taken = tuple(snapshot for snapshot in owned if sandbox in {snapshot.sandbox, snapshot.sandbox_name})
        if taken:  # also those of a deleted sandbox
            return taken
        found = await self._ownership.get(owner, sandbox)
        return tuple(snapshot for snapshot in owned if snapshot.sandbox == found.id)

    async def get(self, owner: str, ref: str) -> Snapshot:
        """Find one snapshot, by id, by name, or by the beginning of its id.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name or beginning matches several; the message lists their ids.
        """
        return await self._snapshots.find(owner, ref)

    async def rename(self, owner: str, ref: str, name: str) -> Snapshot:
        """Give a snapshot another name.

        Raises:
            InvalidInput: The name is not allowed.
        """
        check_name(name)
        return await self._snapshots.rename(await self._snapshots.find(owner, ref), name)

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a snapshot.

        Raises:
            Conflict: Snapshots or sandboxes were created from it; the message names them.
        """
        await self._snapshotter.delete(await self._snapshots.find(owner, ref))

    async def restore(self, owner: str, ref: str, snapshot: str) -> Sandbox:
        """Restore a sandbox from a snapshot in place, whatever its state. If that fails, it is as it was.

        Raises:
            NotFound: There is no such sandbox or snapshot.
            Conflict: The snapshot has another image or size, or another hypervisor saved it.
            Unavailable: A file of the snapshot is damaged, or the hypervisor failed.
            HostExhausted: The host lacks memory or disk space.
        """
        sandbox = await self._ownership.made(owner, ref)
        return await self._restorer.restore(sandbox, await self._snapshots.find(owner, snapshot))

    async def fork(
        self,
        owner: str,
        ref: str,
        count: int = 1,
        *,
        volumes: str = ForkVolumes.COPY,
        created_by: str = "",
        on_progress: Report | None = None,
    ) -> tuple[Fork, ...]:
        """Create copies of a running sandbox as it is now: its memory, its files, its background commands.

        The parent goes on, with its open streams. Each child is named after it, and has its own result.

        Args:
            owner: The owner.
            ref: The parent's id or name.
            count: How many.
            volumes: What they get of its volumes (`ForkVolumes`).
            created_by: Opaque id of the user.
            on_progress: Receives what is being done.

        Raises:
            InvalidInput: The count is not 1 to 100, or there is no such choice of volumes.
            Conflict: It is asleep or being created, or programs in it use a volume; the message names them.
            SandboxLost: Its machine has died.
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor could not save it.
        """
        check_count(count)
        if volumes not in set(ForkVolumes):
            raise InvalidInput(f"volumes must be {' or '.join(ForkVolumes)}, got {shown(volumes)}")
        parent = await self._ownership.made(owner, ref)
        base = await self._snapshots.fork_base(new_id())
        try:
            async with self._transitions.exclusive(parent.id):
                parent = await self._ownership.get(owner, parent.id)
                if parent.state is State.CREATING:
                    raise unreachable(parent)
                if parent.state is not State.RUNNING:
                    hint = {State.ASLEEP: "Wake it first", State.UNRESPONSIVE: "Restart it first"}.get(
                        parent.state, "Start it first, or fork another one"
                    )
                    raise Conflict(
                        f"Sandbox {parent.id} is {parent.state}, only a running one can be forked", hint=hint
                    )
                await (on_progress or no_progress)(f"Saving {parent.name}")
                kept = [] if volumes == ForkVolumes.NONE else await self._volumes.attached_to(owner, parent.id)
                forked = [_forked(volume, parent.id, base) for volume in kept]

                async def copy() -> None:
                    for one in forked:
                        if one.source is not None:
                            await copy_sparse(self._files.path(one.volume.id), one.source)

                checkpoint = await self._snapshotter.checkpoint(parent, base, meanwhile=copy)
            return await self._creator.children(parent, checkpoint, count, created_by, forked)
        finally:
            with anyio.CancelScope(shield=True):
                await self._snapshots.discard(base)


def _forked(volume: Volume, sandbox_id: str, base: Path) -> ForkedVolume:
    has = volume.attachment(sandbox_id)
    assert has is not None
    source = None if has.read_only else base / f"volume-{volume.id}"
    return ForkedVolume(volume=volume, attachment=has, source=source)
