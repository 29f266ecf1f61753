"""Takes snapshots, and deletes those that nothing descends from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio

from storage.ids import new_id

from .admission import Admission
from .errors import Conflict
from .forks import child_names
from .lives import Lives
from .records import Records
from .sandbox import Sandbox
from .snapshots import Snapshot, Snapshots


class Keeper:
    """Keeps moments of sandboxes.

    Args:
        snapshots: Where they are kept.
        records: The sandboxes.
        lives: Saves them.
        admission: Who may have one more.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        snapshots: Snapshots,
        records: Records,
        lives: Lives,
        admission: Admission,
        clock: Callable[[], int],
    ) -> None:
        self._snapshots = snapshots
        self._records = records
        self._lives = lives
        self._admission = admission
        self._clock = clock

    async def take(self, sandbox: Sandbox, *, name: str, labels: Mapping[str, str], created_by: str) -> Snapshot:
        """Keep what a sandbox is now; to be called in its turn. On failure nothing of it is left.

        Raises:
            SandboxLost: It neither runs nor sleeps.
            LimitExceeded: The owner has enough snapshots.
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor could not save it.
        """
        existing = await self._snapshots.owned(sandbox.owner)
        await self._admission.check_snapshot(sandbox.owner, len(existing))
        snapshot_id = new_id()
        draft = await self._snapshots.draft(snapshot_id)
        try:
            saved = await self._lives.moment(sandbox, draft)
            snapshot = Snapshot(
                id=snapshot_id,
                owner=sandbox.owner,
                sandbox=sandbox.id,
                sandbox_name=sandbox.name,
                name=name or child_names(sandbox.name, {snapshot.name for snapshot in existing}, 1)[0],
                parent=sandbox.base,
                image=sandbox.image,
                cpu=sandbox.cpu,
                mem=sandbox.mem,
                disk=sandbox.disk,
                driver=saved.fingerprint,
                labels=dict(labels),
                env=dict(sandbox.env),
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
            for sandbox in await self._records.owned(snapshot.owner)
            if sandbox.base == snapshot.id and sandbox.id != snapshot.sandbox
        ]
        if children:
            raise Conflict(
                f"Snapshot {snapshot.name} ({snapshot.id}) has children: {', '.join(children)}",
                hint="Delete these first",
            )
        await self._snapshots.remove(snapshot)
