"""Creates sandboxes, new ones and forks: afterwards the record and the machine exist, or neither does."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
import structlog

from storage.ids import new_id

from ..errors import CasemateError, Conflict, NotFound, Unavailable
from ..images.catalogue import Catalogue
from ..machines.checkpoint import Checkpoint
from ..machines.clone import Cloner, end
from ..machines.machine import Machine
from ..machines.registry import MachineRegistry
from ..machines.snapshots import Snapshots
from ..machines.templates import Report
from ..machines.warm_pool import Key, WarmPool
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.spec import SandboxSpec
from ..sandboxes.store import SandboxStore
from ..sandboxes.volume_mount import VolumeMount, checked_path
from ..volumes.store import VolumeStore
from ..volumes.volume import Attachment, Volume
from .admission import Admission
from .attachments import Attachments, resume_programs
from .forks import Fork, ForkedVolume, child_names, mounts_of
from .restore import Restorer
from .volume_keeper import VolumeKeeper

log = structlog.get_logger(__name__)

_AT_ONCE = os.cpu_count() or 1


class Creator:
    """Creates sandboxes: records and machines together.

    Args:
        store: The records of the sandboxes.
        machines: The machines that run.
        catalogue: The images.
        snapshots: Snapshots to create sandboxes from.
        restorer: Checks that this host can load a snapshot.
        admission: Checks limits.
        volumes: The records of the volumes.
        attachments: Which machines have them.
        keeper: Copies volumes for forks.
        cloner: Makes machines.
        pool: Holds machines that are ready.
        clock: Milliseconds since the epoch.
        on_sandbox: Called with the id of each new sandbox.
        on_start: Called with how each machine got its memory.
        on_undone: Called with the id of each sandbox of which nothing is left, as its creation failed.
    """

    def __init__(
        self,
        *,
        store: SandboxStore,
        machines: MachineRegistry,
        catalogue: Catalogue,
        snapshots: Snapshots,
        restorer: Restorer,
        admission: Admission,
        volumes: VolumeStore,
        attachments: Attachments,
        keeper: VolumeKeeper,
        cloner: Cloner,
        pool: WarmPool,
        clock: Callable[[], int],
        on_sandbox: Callable[[str], None],
        on_start: Callable[[str], None],
        on_undone: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._machines = machines
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._restorer = restorer
        self._admission = admission
        self._volumes = volumes
        self._attachments = attachments
        self._keeper = keeper
        self._cloner = cloner
        self._pool = pool
        self._clock = clock
        self._on_sandbox = on_sandbox
        self._on_start = on_start
        self._on_undone = on_undone

    async def create(self, owner: str, spec: SandboxSpec, report: Report) -> Sandbox:
        """Create a sandbox of an image, or of the snapshot that the spec names; see `SandboxCalls.create`."""
        if spec.snapshot:
            return await self._of_snapshot(owner, spec)
        _check(spec, self._catalogue.names())
        key = Key(images=await self._catalogue.require(spec.image), cpu=spec.cpu, mem=spec.mem)
        return await self._of_image(owner, spec, key, report)

    async def of(
        self, checkpoint: Checkpoint, owner: str, spec: SandboxSpec, *, base: str, sandbox_id: str = ""
    ) -> Sandbox:
        """Create a sandbox from a checkpoint.

        Args:
            checkpoint: What it starts from.
            owner: Its owner.
            spec: The request; image and size are those of the checkpoint.
            base: The snapshot that the checkpoint descends from; empty if none.
            sandbox_id: Its id; a new one if empty.
        """

        async def machine(sandbox: Sandbox) -> Machine:
            return await self._cloner.clone(checkpoint, sandbox.machine, hostname=sandbox.name)

        new = replace(Sandbox.new(sandbox_id or new_id(), owner, spec, now_ms=self._clock()), base=base)
        return await self._make(new, machine, spec.volumes, saved_before=True)

    async def children(
        self, parent: Sandbox, checkpoint: Checkpoint, count: int, created_by: str, volumes: Sequence[ForkedVolume] = ()
    ) -> tuple[Fork, ...]:
        """Create forks from a checkpoint of their parent, as many at once as the host has processors.

        Each gets its own copies of the volumes that the parent has read-write, and shares the others.
        """
        taken = {sandbox.name for sandbox in await self._store.owned(parent.owner)}
        forks: list[Fork] = [Fork()] * count
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def make(number: int, name: str) -> None:
            spec = SandboxSpec(
                name=name,
                image=parent.image,
                cpu=parent.cpu,
                mem=parent.mem,
                labels=parent.labels,
                env=parent.env,
                auto_sleep=parent.auto_sleep,
                idle_s=parent.idle_s,
                ttl_s=parent.ttl_s,
                network=parent.network,
                region=parent.region,
                created_by=created_by or parent.created_by,
            )
            async with slots:
                try:
                    sandbox_id = new_id()
                    sources = [(one.volume, one.source) for one in volumes if one.source is not None]
                    async with self._keeper.copies(sources, sandbox_id, created_by=spec.created_by) as copies:
                        own = replace(spec, volumes=mounts_of(volumes, copies))
                        child = await self.of(checkpoint, parent.owner, own, base=parent.base, sandbox_id=sandbox_id)
                    forks[number] = Fork(sandbox=child)
                except CasemateError as error:
                    forks[number] = Fork(error=error)
                except Exception as error:
                    log.exception("child not made", parent=parent.id, name=name)
                    forks[number] = Fork(error=Unavailable(f"The fork failed: {type(error).__name__}"))

        async with anyio.create_task_group() as tasks:
            for number, name in enumerate(child_names(parent.name, taken, count)):
                tasks.start_soon(make, number, name)
        return tuple(forks)

    async def _of_snapshot(self, owner: str, spec: SandboxSpec) -> Sandbox:
        snapshot = await self._snapshots.find(owner, spec.snapshot)
        snapshot.check()
        whole = replace(
            spec,
            image=snapshot.image,
            cpu=snapshot.cpu,
            mem=snapshot.mem,
            env={**snapshot.env, **spec.env},
            network=spec.network or snapshot.network,
        )
        _check(whole, {snapshot.image})
        checkpoint = await self._restorer.source(snapshot)
        return await self.of(checkpoint, owner, whole, base=snapshot.id)

    async def _of_image(self, owner: str, spec: SandboxSpec, key: Key, report: Report) -> Sandbox:
        """Create a sandbox of an image, at once if a machine is ready."""

        async def machine(sandbox: Sandbox) -> Machine:
            ready = await self._pool.take(key)
            if ready is not None and await self._hand_over(ready, sandbox):
                return ready
            checkpoint = await self._cloner.template(key, report)
            return await self._cloner.clone(checkpoint, sandbox.machine, hostname=sandbox.name)

        return await self._make(Sandbox.new(new_id(), owner, spec, now_ms=self._clock()), machine, spec.volumes)

    async def _hand_over(self, ready: Machine, sandbox: Sandbox) -> bool:
        """Give a ready machine to a sandbox; end the machine if it does not take the name."""
        try:
            await ready.assign_identity(sandbox.name)
            await ready.save_record()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await end(ready)
            if not isinstance(error, CasemateError):
                raise
            log.warning("waiting machine not used", sandbox=sandbox.id, error=error.message)
            return False
        return True

    async def _wanted(self, sandbox: Sandbox, mounts: Sequence[VolumeMount]) -> list[tuple[Volume, Attachment]]:
        """Find the volumes for a new sandbox, and refuse those that it cannot have before a machine is made."""
        found: list[tuple[Volume, Attachment]] = []
        for mount in mounts:
            volume = await self._volumes.get(sandbox.owner, mount.volume)
            attachment = Attachment(path=checked_path(mount.path), read_only=mount.read_only)
            volume.with_sandbox(sandbox.id, attachment, await self._attachments.names(volume))
            found.append((volume, attachment))
        return found

    async def _make(
        self,
        sandbox: Sandbox,
        make: Callable[[Sandbox], Awaitable[Machine]],
        volumes: Sequence[VolumeMount],
        *,
        saved_before: bool = False,
    ) -> Sandbox:
        wanted = await self._wanted(sandbox, volumes)
        await self._admission.admit(sandbox)
        self._on_sandbox(sandbox.id)
        machine: Machine | None = None
        try:
            machine = await make(sandbox)
            self._machines.attach(sandbox.id, machine)
            for volume, attachment in wanted:
                await self._attachments.attach(sandbox, machine, volume, attachment)
            if saved_before:
                await resume_programs(machine)
            now = self._clock()
            running = replace(
                # The time to live begins here: building a template must not use it up.
                lease.renewed(sandbox.moved(State.RUNNING, now_ms=now), sandbox.ttl_s, now),
                active_ms=now,
                machine=machine.directory.name,
                memory=machine.running.memory.value,
            )
            self._admission.running(running)
            saved = await self._store.save(running)
        except BaseException as error:
            deleted = False
            with anyio.CancelScope(shield=True):
                deleted = await self._undo(sandbox, machine)
            if deleted and isinstance(error, CasemateError):
                raise NotFound(f"Sandbox {sandbox.id} was deleted while it was created") from error
            raise
        self._on_start(saved.memory)
        return saved

    async def _undo(self, sandbox: Sandbox, machine: Machine | None) -> bool:
        """Remove everything of a sandbox that was not created, and tell whether somebody deleted it in the meantime."""
        name = machine.directory.name if machine else sandbox.machine
        try:
            await self._machines.destroy(sandbox.id, name)
        except CasemateError as error:
            log.warning("sandbox not removed yet", sandbox=sandbox.id, reason=str(error))
            # The sweep removes the rest.
            with suppress(NotFound, Conflict):
                await self._store.change(
                    sandbox.id, lambda found: replace(found.moved(State.DELETED, now_ms=self._clock()), machine=name)
                )
            return False
        self._admission.release(sandbox.id)
        await self._attachments.forget(sandbox.owner, sandbox.id)
        if self._on_undone is not None:
            self._on_undone(sandbox.id)
        found = await self._store.find(sandbox.id)
        await self._store.remove(sandbox.id)
        return found is None or found.state is State.DELETED


def _check(spec: SandboxSpec, images: Collection[str]) -> None:
    spec.check(images)
    lease.check_ttl(spec.ttl_s)
    lease.check_idle(spec.idle_s)
