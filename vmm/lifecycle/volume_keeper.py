"""Makes, copies and deletes volumes: afterwards the record and the file exist, or neither does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import structlog

from storage.ids import new_id

from ..errors import CasemateError, Damaged
from ..sandboxes.store import SandboxStore
from ..volumes.files import VolumeFiles
from ..volumes.store import VolumeStore
from ..volumes.volume import Volume, VolumeState, check_name, check_size
from .admission import Admission
from .attachments import Attachments
from .forks import child_names
from .keyed_lock import KeyedLock

log = structlog.get_logger(__name__)


class VolumeKeeper:
    """Makes, copies and deletes volumes.

    Args:
        store: Their records.
        files: Their files.
        sandboxes: The records of the sandboxes.
        attachments: Which machines have them.
        admission: Checks limits.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        store: VolumeStore,
        files: VolumeFiles,
        sandboxes: SandboxStore,
        attachments: Attachments,
        admission: Admission,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._files = files
        self._sandboxes = sandboxes
        self._attachments = attachments
        self._admission = admission
        self._clock = clock
        self._turns = KeyedLock()

    async def recover(self) -> None:
        """Finish or undo what an earlier server left; before any sandbox is adopted.

        Raises:
            CasemateError: The store or the host fails.
        """
        volumes = await self._store.all()
        await self._files.sweep({volume.id for volume in volumes})
        for volume in volumes:
            if volume.state is not VolumeState.READY:
                await self._remove(volume.id)
                continue
            gone = [one for one in volume.attached if await self._is_gone(one)]
            for sandbox_id in gone:
                await self._store.change(volume.id, _without(sandbox_id))

    async def settle(self) -> None:
        """Remove copies for sandboxes that were not created; after what is left of those sandboxes is removed."""
        for volume in await self._store.all():
            if volume.made_for and await self._is_gone(volume.made_for):
                await self._remove(volume.id)
            elif volume.made_for:
                await self._keep(volume)

    async def create(self, owner: str, name: str, size: int, *, created_by: str) -> Volume:
        """Make an empty volume. On failure nothing of it is left.

        Raises:
            InvalidInput: The name or size is not allowed.
            Conflict: The owner has a volume with the name.
            LimitExceeded: The owner has reached a limit.
            HostExhausted: The host's disk is full.
            Unavailable: The host cannot make it.
        """
        check_size(size)

        async def fill(volume: Volume) -> None:
            await self._files.make(volume.id, size)

        return await self._make(owner, name, size, "", created_by, fill)

    async def copy(self, volume: Volume, source: Path, name: str, *, created_by: str, made_for: str = "") -> Volume:
        """Make a volume from a file that nobody writes to meanwhile. On failure nothing of it is left.

        Args:
            volume: The volume that it is a copy of.
            source: The file.
            name: The new name; that of the volume with a number if empty.
            created_by: Opaque id of the user.
            made_for: The sandbox that is about to be created with it; empty if none.

        Raises:
            CasemateError: As `create`.
        """

        async def fill(made: Volume) -> None:
            self._admission.check_disk(self._files.root)
            await self._files.copy(source, made.id)

        return await self._make(
            volume.owner, name, volume.size, volume.id, created_by, fill, like=volume.name, made_for=made_for
        )

    @asynccontextmanager
    async def copies(
        self, sources: Sequence[tuple[Volume, Path]], sandbox_id: str, *, created_by: str
    ) -> AsyncGenerator[list[Volume]]:
        """Make a copy of each for a sandbox that is created in the block; if it is not, nothing of them is left."""
        made: list[Volume] = []
        try:
            for volume, source in sources:
                made.append(await self.copy(volume, source, "", created_by=created_by, made_for=sandbox_id))
            yield made
        except BaseException:
            with anyio.CancelScope(shield=True):
                for volume in made:
                    await self._discard(volume)
            raise
        for volume in made:
            await self._keep(volume)

    async def _discard(self, volume: Volume) -> None:
        try:
            await self.delete(volume)
        except CasemateError as error:
            log.warning("volume not removed", volume=volume.id, reason=error.message)

    async def _keep(self, volume: Volume) -> None:
        await self._store.change(volume.id, lambda found: replace(found, made_for=""))

    async def delete(self, volume: Volume) -> None:
        """Delete a volume with everything in it. If the server crashes, its next start finishes the deletion.

        Raises:
            Conflict: It is attached; the message names the sandboxes.
        """
        async with self._attachments.turns.of(volume.id):
            names = await self._attachments.names(volume)
            await self._store.change(volume.id, lambda found: found.deleting(names))
            with anyio.CancelScope(shield=True):
                await self._remove(volume.id)

    async def _make(
        self,
        owner: str,
        name: str,
        size: int,
        source: str,
        created_by: str,
        fill: Callable[[Volume], Awaitable[None]],
        *,
        like: str = "",
        made_for: str = "",
    ) -> Volume:
        if name or not like:
            check_name(name)
        self._admission.check_disk(self._files.root)
        now = self._clock()
        # One at a time: each of many concurrent requests must see those before it.
        async with self._turns.of(owner):
            existing = await self._store.owned(owner)
            await self._admission.check_volume(owner, existing, size)
            volume = Volume(
                id=new_id(),
                owner=owner,
                name=name or child_names(like, {one.name for one in existing}, 1)[0],
                size=size,
                state=VolumeState.CREATING,
                source=source,
                made_for=made_for,
                created_by=created_by,
                created_ms=now,
                updated_ms=now,
            )
            await self._store.insert(volume)
        try:
            await fill(volume)
            return await self._store.change(volume.id, lambda found: replace(found, state=VolumeState.READY))
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(CasemateError):
                await self._remove(volume.id)
            raise

    async def _remove(self, volume_id: str) -> None:
        await self._files.remove(volume_id)
        await self._store.remove(volume_id)

    async def _is_gone(self, sandbox_id: str) -> bool:
        try:
            # A creation or deletion that was interrupted is undone or finished later, with its machine's process.
            return await self._sandboxes.find(sandbox_id) is None
        except Damaged:
            return False


def _without(sandbox_id: str) -> Callable[[Volume], Volume]:
    return lambda volume: volume.without_sandbox(sandbox_id)
