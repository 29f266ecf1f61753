"""The fleet: the one public door to sandboxes. Every call takes the owner, and here alone ownership is checked."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import anyio
from anyio import AsyncContextManagerMixin

from storage.errors import StoreError

from .calls.guest import GuestCalls
from .calls.lifecycle import LifeCalls
from .calls.sandboxes import RecordCalls
from .calls.snapshots import SnapshotCalls
from .errors import CasemateError, LinkTimeout, Unavailable
from .guest.link import GuestLink
from .hypervisor.base import Hypervisor
from .images.catalogue import Catalogue, ImageSet
from .lifecycle.access import Reach
from .lifecycle.activity import Activity
from .lifecycle.admission import Admission
from .lifecycle.create import Maker
from .lifecycle.delete import Deleter
from .lifecycle.housekeeping import Upkeep
from .lifecycle.lifecycle import Lives
from .lifecycle.reaper import Reaper
from .lifecycle.snapshot import Keeper
from .machines.clone import Cloner, end, silent
from .machines.registry import Machines
from .machines.snapshots import Snapshots
from .machines.templates import Report, Templates
from .machines.warm_pool import Key, Pool
from .sandboxes import lease
from .sandboxes.limits import HostReserve
from .sandboxes.quotas import Quotas
from .sandboxes.sandbox import Sandbox
from .sandboxes.spec import SandboxSpec
from .sandboxes.store import Records

_SWEEP_S = 5.0
_MOST_AHEAD_S = 3600.0


def _unheard(_what: str) -> None:
    pass


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Fleet(RecordCalls, GuestCalls, LifeCalls, SnapshotCalls, AsyncContextManagerMixin):
    """All sandboxes of a host, for the length of a block: adopts machines that run, cleans up the rest, watches.

    At the end the machines live on.

    Args:
        data: The data directory; `instances`, `templates` and `snapshots` below it belong to the fleet.
        driver: The hypervisor.
        catalogue: The images.
        records: The sandboxes' records.
        quotas: What each owner may have.
        reserve: What must stay free on the host.
        instances: Where machines have their directories, if not below the data directory.
        own_memory: Whether each machine has a memory file of its own from the start, rather than from its first sleep;
            None leaves it to the driver.
        ready: How many machines wait for new sandboxes of the image and size that `prepare` names.
        retention_s: Seconds after which a sandbox that sleeps is deleted; 0 is never.
        sweep_s: How often clocks are looked at.
        clock: Milliseconds since the epoch.
        found: Told the id of each sandbox that a call is about, once it is known.
        started: Told how each machine came by its memory (`Memory`).
    """

    def __init__(
        self,
        *,
        data: Path,
        driver: Hypervisor,
        catalogue: Catalogue,
        records: Records,
        quotas: Quotas,
        reserve: HostReserve,
        instances: Path | None = None,
        own_memory: bool | None = None,
        ready: int = 0,
        retention_s: int = 0,
        sweep_s: float = _SWEEP_S,
        clock: Callable[[], int] = _now_ms,
        found: Callable[[str], None] = _unheard,
        started: Callable[[str], None] = _unheard,
    ) -> None:
        self._driver = driver
        self._catalogue = catalogue
        self._records = records
        self._clock = clock
        self._found = found
        self._tasks = tasks = anyio.create_task_group()
        self._templates = Templates(driver, data / "templates", tasks, catalogue.verify)
        self._snapshots = Snapshots(data / "snapshots")
        self._activity = Activity(clock)
        instances = instances or data / "instances"
        self._machines = Machines(driver, instances, tasks, self._died)
        self._silence = self._machines.silence
        cloner = Cloner(
            driver, self._machines, self._templates, own_memory=driver.own_memory if own_memory is None else own_memory
        )
        self._pool = Pool(
            cloner.ahead,
            end,
            self._admit_ahead,
            size=ready,
            max_age_s=_MOST_AHEAD_S,
            clock=time.monotonic,
            tasks=tasks,
        )
        self._admission = Admission(
            (instances, data), records, quotas, reserve, ahead=self._pool.promised, give_way=self._pool.give_way
        )
        self._maker = Maker(
            records=records,
            machines=self._machines,
            admission=self._admission,
            cloner=cloner,
            pool=self._pool,
            clock=clock,
            found=found,
            started=started,
        )
        self._lives = Lives(
            driver=driver,
            records=records,
            machines=self._machines,
            cloner=cloner,
            snapshots=self._snapshots,
            admission=self._admission,
            activity=self._activity,
            clock=clock,
            tasks=tasks,
            started=started,
        )
        self._keeper = Keeper(
            snapshots=self._snapshots,
            records=records,
            lives=self._lives,
            admission=self._admission,
            clock=clock,
        )
        self._reach = Reach(records, self._machines, self._lives, self._activity)
        self._deleter = Deleter(
            records=records,
            machines=self._machines,
            lives=self._lives,
            admission=self._admission,
            activity=self._activity,
            clock=clock,
        )
        self._upkeep = Upkeep(
            catalogue=catalogue,
            records=records,
            machines=self._machines,
            templates=self._templates,
            snapshots=self._snapshots,
            lives=self._lives,
            deleter=self._deleter,
            pool=self._pool,
            reaper=Reaper(
                records,
                self._activity,
                sleep=self._lives.retire,
                delete=self._deleter.delete_seen,
                guest_idle=self._guest_idle,
                retention_s=retention_s,
                now_ms=clock,
            ),
            sweep_s=sweep_s,
        )

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._tasks:
            await self._upkeep.begin(self._tasks)
            try:
                yield self
            finally:
                self._tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._upkeep.end()

    def __len__(self) -> int:
        """How many machines run."""
        return len(self._machines)

    def images(self) -> tuple[str, ...]:
        """The names of the images that a sandbox can be made from."""
        return self._catalogue.names()

    async def prepare(self, image: str, *, cpu: int, mem: int, report: Report | None = None) -> None:
        """Make sure that sandboxes of this image and size start by cloning, and have some machines of it ready.

        Raises:
            Unavailable: The image is not built, or the template cannot be.
        """
        images = await self._image(image)
        await self._templates.get(images, cpu=cpu, mem=mem, report=report or silent)
        self._upkeep.keep_ready(Key(images=images, cpu=cpu, mem=mem))

    async def create(self, owner: str, spec: SandboxSpec, *, on_progress: Report | None = None) -> Sandbox:
        """Make a sandbox; it is ready for commands when this returns. On failure nothing of it is left.

        With a snapshot named, the image and the size are that one's.

        Raises:
            InvalidInput: The wish cannot be.
            NotFound: There is no such snapshot.
            Conflict: The snapshot's name fits several, or another hypervisor saved it.
            LimitExceeded: The owner has enough.
            HostExhausted: The host lacks memory or disk.
            Unavailable: The image is not built, a snapshot is damaged, or the machine did not come up.
        """
        if spec.snapshot:
            return await self._create_from(owner, spec)
        _check(spec, self.images())
        key = Key(images=await self._image(spec.image), cpu=spec.cpu, mem=spec.mem)
        return await self._maker.fresh(owner, spec, key, on_progress or silent)

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a sandbox with everything in it; its snapshots stay.

        Never needs the guest; what a crash leaves, the next start finishes.
        """
        await self._deleter.delete((await self.get(owner, ref)).id)

    async def health(self, image: str) -> dict[str, str]:
        """The parts that creating a sandbox of an image needs, each with what is wrong with it, or nothing."""
        return {
            "store": await _trouble(self._records.ping),
            "hypervisor": await _trouble(self._driver.probe),
            "image": await _trouble(lambda: self._image(image)),
        }

    @asynccontextmanager
    async def reach(self, owner: str, ref: str, *, wake: bool = True) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        """Find a sandbox of the owner and the link to its guest, for one operation; see `GuestCalls.reach`."""
        sandbox = await self.get(owner, ref)
        async with self._reach.use(sandbox) if wake else self._reach.look(sandbox) as pair:
            yield pair

    async def _create_from(self, owner: str, spec: SandboxSpec) -> Sandbox:
        snapshot = await self._snapshots.find(owner, spec.snapshot)
        snapshot.check()
        wish = replace(spec, image=snapshot.image, cpu=snapshot.cpu, mem=snapshot.mem, env={**snapshot.env, **spec.env})
        _check(wish, {snapshot.image})
        saved = await self._lives.source(snapshot)
        return await self._maker.of(saved, owner, wish, base=snapshot.id)

    async def _image(self, name: str) -> ImageSet:
        images = await self._catalogue.find(name)
        if images is None:
            raise Unavailable(f"The image {name} is not built", hint=f"Build it: casemate image build {name}")
        return images

    async def _guest_idle(self, sandbox: Sandbox) -> bool:
        machine = self._machines.get(sandbox.id)
        if machine is None:
            return False
        if machine.link.silent_s:
            raise LinkTimeout(self._machines.silence(sandbox.id))
        going_on = await machine.link.activity()
        return not (going_on.processes or going_on.terminals or going_on.connections)

    async def _died(self, sandbox_id: str, machine: str, reason: str) -> None:
        await self._lives.died(sandbox_id, machine, reason)

    def _admit_ahead(self, key: Key) -> None:
        self._admission.check_ahead(key.mem)


async def _trouble(probe: Callable[[], Awaitable[object]]) -> str:
    try:
        await probe()
    except (CasemateError, StoreError) as error:
        return str(error)
    return ""


def _check(spec: SandboxSpec, images: tuple[str, ...] | set[str]) -> None:
    spec.check(images)
    lease.check_ttl(spec.ttl_s)
    lease.check_idle(spec.idle_s)
