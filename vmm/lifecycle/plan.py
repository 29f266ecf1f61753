"""Plans of sandboxes: what a request comes to, checked before anything is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace

import anyio
import structlog

from storage.ids import new_id

from ..errors import CasemateError
from ..images.catalogue import Catalogue
from ..machines.checkpoint import Checkpoint
from ..machines.clone import Cloner, end
from ..machines.machine import Machine
from ..machines.snapshots import Snapshots
from ..machines.templates import Report
from ..machines.warm_pool import Key, WarmPool
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.spec import SandboxSpec
from ..sandboxes.volume_mount import VolumeMount, checked_path
from ..volumes.store import VolumeStore
from ..volumes.volume import Attachment, Volume
from .attachments import Attachments
from .restore import Restorer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A sandbox that may be made.

    Attributes:
        sandbox: Its record, which is not stored yet.
        make: Makes its machine.
        volumes: What it has from the start.
        saved: Whether the machine comes from a saved sandbox, whose programs may stand still.
    """

    sandbox: Sandbox
    make: Callable[[Sandbox], Awaitable[Machine]]
    volumes: Sequence[tuple[Volume, Attachment]] = ()
    saved: bool = False


class Planner:
    """Checks requests for sandboxes, and finds what they are made of.

    Args:
        catalogue: The images.
        snapshots: Snapshots to create sandboxes from.
        restorer: Checks that this host can load a snapshot.
        cloner: Makes machines.
        pool: Holds machines that are ready.
        volumes: The records of the volumes.
        attachments: Which sandboxes have them.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        snapshots: Snapshots,
        restorer: Restorer,
        cloner: Cloner,
        pool: WarmPool,
        volumes: VolumeStore,
        attachments: Attachments,
        clock: Callable[[], int],
    ) -> None:
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._restorer = restorer
        self._cloner = cloner
        self._pool = pool
        self._volumes = volumes
        self._attachments = attachments
        self._clock = clock

    async def of(self, owner: str, spec: SandboxSpec, report: Report) -> Plan:
        """Plan a sandbox of an image, or of the snapshot that the spec names.

        Raises:
            CasemateError: See `SandboxCalls.create`.
        """
        if spec.snapshot:
            return await self._of_snapshot(owner, spec)
        _check(spec, self._catalogue.names())
        key = Key(images=await self._catalogue.require(spec.image), cpu=spec.cpu, mem=spec.mem)

        async def make(sandbox: Sandbox) -> Machine:
            ready = await self._pool.take(key)
            if ready is not None and await _hand_over(ready, sandbox):
                return ready
            checkpoint = await self._cloner.template(key, report)
            return await self._cloner.clone(checkpoint, sandbox.machine, hostname=sandbox.name)

        sandbox = Sandbox.new(new_id(), owner, spec, now_ms=self._clock())
        return Plan(sandbox=sandbox, make=make, volumes=await self._wanted(sandbox, spec.volumes))

    async def of_checkpoint(
        self, checkpoint: Checkpoint, owner: str, spec: SandboxSpec, *, base: str, sandbox_id: str = ""
    ) -> Plan:
        """Plan a sandbox that goes on where another one was saved.

        Args:
            checkpoint: What it starts from.
            owner: Its owner.
            spec: The request; image and size are those of the checkpoint.
            base: The snapshot that the checkpoint descends from; empty if none.
            sandbox_id: Its id; a new one if empty.

        Raises:
            NotFound: There is no such volume.
            Conflict: A volume is attached in a way that excludes this.
        """

        async def make(sandbox: Sandbox) -> Machine:
            return await self._cloner.clone(checkpoint, sandbox.machine, hostname=sandbox.name)

        sandbox = replace(Sandbox.new(sandbox_id or new_id(), owner, spec, now_ms=self._clock()), base=base)
        return Plan(sandbox=sandbox, make=make, volumes=await self._wanted(sandbox, spec.volumes), saved=True)

    async def _of_snapshot(self, owner: str, spec: SandboxSpec) -> Plan:
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
        return await self.of_checkpoint(checkpoint, owner, whole, base=snapshot.id)

    async def _wanted(self, sandbox: Sandbox, mounts: Sequence[VolumeMount]) -> list[tuple[Volume, Attachment]]:
        found: list[tuple[Volume, Attachment]] = []
        for mount in mounts:
            volume = await self._volumes.get(sandbox.owner, mount.volume)
            attachment = Attachment(path=checked_path(mount.path), read_only=mount.read_only)
            volume.with_sandbox(sandbox.id, attachment, await self._attachments.names(volume))
            found.append((volume, attachment))
        return found


async def _hand_over(ready: Machine, sandbox: Sandbox) -> bool:
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


def _check(spec: SandboxSpec, images: Collection[str]) -> None:
    spec.check(images)
    lease.check_ttl(spec.ttl_s)
    lease.check_idle(spec.idle_s)
