"""Calls about volumes: disks of an owner that outlive the sandboxes that they are attached to."""

from __future__ import annotations

from ..errors import Conflict
from ..lifecycle.access import GuestAccess
from ..lifecycle.attachments import Attachments
from ..lifecycle.transitions import Transitions
from ..lifecycle.volume_keeper import VolumeKeeper
from ..machines.registry import MachineRegistry
from ..sandboxes.volume_mount import checked_path
from ..volumes.files import VolumeFiles
from ..volumes.store import VolumeStore
from ..volumes.volume import SIZE, Attachment, Volume
from .ownership import Ownership


class VolumeCalls:
    """What an owner may do with volumes.

    Args:
        ownership: Finds the owner's sandboxes.
        store: The records of the volumes.
        files: Their files.
        keeper: Makes and deletes them.
        attachments: Which machines have them.
        access: Wakes sandboxes that sleep.
        transitions: Allow one change of a sandbox at a time.
        machines: The machines that run.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        store: VolumeStore,
        files: VolumeFiles,
        keeper: VolumeKeeper,
        attachments: Attachments,
        access: GuestAccess,
        transitions: Transitions,
        machines: MachineRegistry,
    ) -> None:
        self._ownership = ownership
        self._store = store
        self._files = files
        self._keeper = keeper
        self._attachments = attachments
        self._access = access
        self._transitions = transitions
        self._machines = machines

    async def create(self, owner: str, name: str, *, size: int = SIZE, created_by: str = "") -> Volume:
        """Make an empty volume.

        Args:
            owner: The owner.
            name: A DNS label that no other volume of the owner has.
            size: MiB; it takes as much of the host's disk as it holds.
            created_by: Opaque id of the user.

        Raises:
            InvalidInput: The name or size is not allowed.
            Conflict: The owner has a volume with the name.
            LimitExceeded: The owner has reached a limit.
            HostExhausted: The host's disk is full.
        """
        return await self._keeper.create(owner, name, size, created_by=created_by)

    async def get(self, owner: str, ref: str) -> Volume:
        """Find one volume, by name or id.

        Raises:
            NotFound: There is none, or it is somebody else's.
        """
        return await self._store.get(owner, ref)

    async def list(self, owner: str, *, sandbox: str = "") -> tuple[Volume, ...]:
        """List the owner's volumes, by name; with a sandbox given, by id or name, those that it has."""
        if not sandbox:
            return tuple(await self._store.owned(owner))
        return tuple(await self._store.attached_to(owner, (await self._ownership.get(owner, sandbox)).id))

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a volume with everything in it.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: It is attached; the message names the sandboxes.
        """
        await self._keeper.delete(await self._store.get(owner, ref))

    async def snapshot(self, owner: str, ref: str, name: str = "", *, created_by: str = "") -> Volume:
        """Make a volume with what another one holds now: all that programs have written, even while it is in use.

        Args:
            owner: The owner.
            ref: The volume's name or id.
            name: The new volume's name; that of the other one with a number if empty.
            created_by: Opaque id of the user.

        Raises:
            NotFound: There is no such volume, or it is somebody else's.
            Conflict: The name is taken, or the volume is being attached or detached.
            LimitExceeded: The owner has reached a limit.
            HostExhausted: The host's disk is full.
            LinkError: The guest that uses it does not answer.
        """
        volume = await self._store.get(owner, ref)
        holder = volume.writer
        if not holder:
            async with self._attachments.turns.of(volume.id):
                self._check_same(await self._store.get(owner, volume.id), holder)
                return await self._keeper.copy(volume, self._files.path(volume.id), name, created_by=created_by)
        async with self._transitions.exclusive(holder):
            self._check_same(await self._store.get(owner, volume.id), holder)
            async with self._attachments.quiet(self._machines.get(holder), volume):
                return await self._keeper.copy(volume, self._files.path(volume.id), name, created_by=created_by)
        raise AssertionError  # unreachable: the block either returns or raises

    async def attach(self, owner: str, ref: str, volume: str, path: str, *, read_only: bool = False) -> Volume:
        """Mount a volume in a sandbox, which wakes if it sleeps. It has it until it is detached or deleted.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            volume: The volume's name or id.
            path: The absolute path of its directory in the sandbox; made if it does not exist.
            read_only: Whether the sandbox may only read it; several sandboxes may then share it.

        Raises:
            InvalidInput: The path is not allowed, or the sandbox has too many volumes.
            NotFound: There is no such sandbox or volume, or it is somebody else's.
            Conflict: It is attached in a way that excludes this; the message names the sandbox.
            GuestError: The guest cannot mount it.
            SandboxLost: The sandbox's machine has died.
        """
        wanted = Attachment(path=checked_path(path), read_only=read_only)
        found = await self._store.get(owner, volume)
        sandbox = await self._ownership.get(owner, ref)
        async with self._access.use(sandbox) as (sandbox, _), self._transitions.exclusive(sandbox.id):
            machine = self._machines.get(sandbox.id)
            if machine is None:
                raise Conflict(f"Sandbox {sandbox.id} fell asleep or ended just now", hint="Try again")
            return await self._attachments.attach(sandbox, machine, found, wanted)
        raise AssertionError  # unreachable: the block either returns or raises

    async def detach(self, owner: str, ref: str, volume: str, *, force: bool = False) -> Volume:
        """Unmount a volume and take it out of a sandbox, which may sleep or have died.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            volume: The volume's name or id.
            force: Whether to do so even if programs use it or the guest does not answer; what was not yet written is
                lost.

        Raises:
            NotFound: There is no such sandbox or volume, or it is somebody else's.
            Conflict: It is not attached to this sandbox, or programs use it; the message names them.
            LinkError: The guest does not answer.
        """
        found = await self._store.get(owner, volume)
        sandbox = await self._ownership.get(owner, ref)
        async with self._transitions.exclusive(sandbox.id):
            return await self._attachments.detach(sandbox.id, self._machines.get(sandbox.id), found, force=force)
        raise AssertionError  # unreachable: the block either returns or raises

    def _check_same(self, volume: Volume, holder: str) -> None:
        volume.check_ready()
        if volume.writer != holder:
            raise Conflict(f"Volume {volume.name} was attached or detached just now", hint="Try again")
