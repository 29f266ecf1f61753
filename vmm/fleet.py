"""The fleet: the one public door to sandboxes. Every call takes the owner, and here alone ownership is checked."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import anyio
import structlog
from anyio.abc import TaskGroup

from storage.errors import StoreError

from . import lease
from .activity import Activity
from .admission import Admission
from .adoption import adopt
from .cloning import Cloner, end, silent
from .errors import CasemateError, Conflict, HostExhausted, LinkError, LinkTimeout, NotFound, Unavailable
from .guest.link import GuestLink
from .guest_calls import GuestCalls
from .hypervisor.base import Hypervisor
from .images.catalogue import Catalogue, ImageSet
from .keeping import Keeper
from .life_calls import LifeCalls
from .limits import HostReserve
from .lives import Lives, lost, unreachable
from .machines import Machines
from .making import Maker
from .pool import Key, Pool
from .quotas import Quotas
from .reaper import Reaper
from .records import Records
from .sandbox import Sandbox, State
from .snapshot_calls import SnapshotCalls
from .snapshots import Snapshots
from .spec import SandboxSpec, check_labels, check_name
from .templates import Report, Templates
from .usage import Usage

log = structlog.get_logger(__name__)

_SWEEP_S = 5.0
_RECORD_S = 5
_TURN_S = 10
_PAGE_LIMIT = 100
_AT_ONCE = os.cpu_count() or 1
_MOST_AHEAD_S = 3600.0


def _unheard(_what: str) -> None:
    pass


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of an owner's sandboxes, newest first; `total` counts all that match."""

    items: tuple[Sandbox, ...]
    total: int
    page: int
    limit: int


class Fleet(GuestCalls, LifeCalls, SnapshotCalls):
    """All sandboxes of a host.

    Args:
        data: The data directory; `instances`, `templates` and `snapshots` below it belong to the fleet.
        driver: The hypervisor.
        catalogue: The images.
        records: The sandboxes' records.
        quotas: What each owner may have.
        reserve: What must stay free on the host.
        tasks: Where machines are watched and templates built.
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
        tasks: TaskGroup,
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
        self._tasks = tasks
        self._sweep_s = sweep_s
        self._prepared: tuple[str, int, int] | None = None
        self._templates = Templates(driver, data / "templates", tasks, catalogue.verify)
        self._snapshots = Snapshots(data / "snapshots")
        self._activity = Activity(clock)
        self._machines = Machines(driver, instances or data / "instances", tasks, self._died)
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
            data, records, quotas, reserve, ahead=self._pool.promised, give_way=self._pool.give_way
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
            driver=driver.fingerprint,
            clock=clock,
        )
        self._reaper = Reaper(
            records,
            self._activity,
            sleep=self._lives.retire,
            delete=self._delete_seen,
            guest_idle=self._guest_idle,
            retention_s=retention_s,
            now_ms=clock,
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
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
    ) -> AsyncGenerator[Self]:
        """A fleet for the length of a block: adopts the machines that run, cleans up the rest, watches.

        At the end the machines live on.
        """
        async with anyio.create_task_group() as tasks:
            fleet = cls(
                data=data,
                driver=driver,
                catalogue=catalogue,
                records=records,
                quotas=quotas,
                reserve=reserve,
                tasks=tasks,
                instances=instances,
                own_memory=own_memory,
                ready=ready,
                retention_s=retention_s,
                sweep_s=sweep_s,
                clock=clock,
                found=found,
                started=started,
            )
            await fleet._settle_in()
            try:
                yield fleet
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await fleet._let_go()

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
        self._prepared = (image, cpu, mem)
        self._pool.keep(Key(images=images, cpu=cpu, mem=mem))

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

    async def get(self, owner: str, ref: str) -> Sandbox:
        """One sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name fits several; the message lists their ids.
        """
        sandbox = await self._records.get(owner, ref)
        if sandbox is None or sandbox.state is State.DELETED:
            sandbox = await self._only(owner, ref)
        self._found(sandbox.id)
        return sandbox

    async def list(
        self, owner: str, *, labels: Mapping[str, str] | None = None, page: int = 1, limit: int = 20
    ) -> Page:
        """The owner's sandboxes, newest first; with labels, those that have all of them."""
        page, limit = max(1, page), min(max(1, limit), _PAGE_LIMIT)
        wanted = (labels or {}).items()
        found = [sandbox for sandbox in await self._records.owned(owner) if wanted <= sandbox.labels.items()]
        start = (page - 1) * limit
        return Page(items=tuple(found[start : start + limit]), total=len(found), page=page, limit=limit)

    async def usage(self, owner: str) -> Usage:
        """What the owner's sandboxes take, as quotas count it."""
        return Usage.of(await self._records.owned(owner))

    async def survey(self) -> dict[State, Usage]:
        """What all sandboxes of this host take, whoever owns them, by state."""
        return {state: Usage.of(await self._records.in_state(state)) for state in State}

    async def update(
        self,
        owner: str,
        ref: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        auto_sleep: bool | None = None,
        ttl_s: int | None = None,
        idle_s: int | None = None,
    ) -> Sandbox:
        """Change what may be changed; what is None stays.

        Args:
            owner: Whose.
            ref: Which.
            name: A new name.
            labels: In place of all others.
            auto_sleep: Whether it may be put to sleep when idle.
            ttl_s: Seconds to live from now on, or from its waking; 0 is no limit.
            idle_s: Seconds without use after which it may be put to sleep; 0 is never.

        Raises:
            InvalidInput: A new value cannot be.
            Conflict: A time to live for a sandbox that is dead.
        """
        if name is not None:
            check_name(name)
        if labels is not None:
            check_labels(labels)
        if idle_s is not None:
            lease.check_idle(idle_s)

        def changed(sandbox: Sandbox) -> Sandbox:
            now = self._clock()
            renewed = sandbox if ttl_s is None else lease.renewed(sandbox, ttl_s, now)
            return replace(
                renewed,
                name=sandbox.name if name is None else name,
                labels=sandbox.labels if labels is None else dict(labels),
                auto_sleep=sandbox.auto_sleep if auto_sleep is None else auto_sleep,
                idle_s=sandbox.idle_s if idle_s is None else idle_s,
                updated_ms=now,
            )

        return await self._records.change((await self.get(owner, ref)).id, changed)

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a sandbox with everything in it; its snapshots stay.

        Never needs the guest; what a crash leaves, the next start finishes.
        """
        await self._delete((await self.get(owner, ref)).id)

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
        if not wake:
            async with self._connected(sandbox) as link:
                yield sandbox, link
            return
        async with self._activity.use(sandbox.id):
            if self._machines.get(sandbox.id) is None:
                sandbox = await self.get(owner, sandbox.id)
                if sandbox.state in {State.ASLEEP, State.RUNNING}:
                    sandbox = await self._lives.wake(sandbox.id)
            async with self._connected(sandbox) as link:
                yield sandbox, link

    @asynccontextmanager
    async def _connected(self, sandbox: Sandbox) -> AsyncGenerator[GuestLink]:
        machine = self._machines.get(sandbox.id)
        if machine is None:
            raise unreachable(await self._settled(sandbox) or sandbox)
        try:
            yield machine.link
        except LinkError as error:
            if not isinstance(error, LinkTimeout) and await self._machines.gone(sandbox.id, machine):
                raise await self._gone(sandbox) from error
            ailment = await self._machines.ailment(sandbox.id)
            if ailment:
                raise HostExhausted(
                    f"Sandbox {sandbox.id} does not run: {ailment}",
                    hint="It goes on by itself, with nothing lost, once the host has room again",
                ) from error
            raise

    async def _gone(self, sandbox: Sandbox) -> CasemateError:
        found = await self._settled(sandbox)
        if found is None or found.state is State.DELETED:
            return NotFound(f"Sandbox {sandbox.id} was deleted during the call")
        if found.state is State.ASLEEP or self._machines.get(sandbox.id) is not None:
            did = "put to sleep" if found.state is State.ASLEEP else "put back to a snapshot"
            return Conflict(
                f"Sandbox {sandbox.id} was {did} during the call; whether it took effect is not known",
                hint="Look, then call again",
            )
        return lost(sandbox, found.reason or "its virtual machine ended")

    async def _settled(self, sandbox: Sandbox) -> Sandbox | None:
        """The record as it is when nothing changes the sandbox's life: what did may still be on its way there."""
        async with self._lives.turn(sandbox.id):
            return await self._records.find(sandbox.id)

    async def _create_from(self, owner: str, spec: SandboxSpec) -> Sandbox:
        snapshot = await self._snapshots.find(owner, spec.snapshot)
        wish = replace(spec, image=snapshot.image, cpu=snapshot.cpu, mem=snapshot.mem, env={**snapshot.env, **spec.env})
        _check(wish, {snapshot.image})
        saved = await self._lives.source(snapshot)

        return await self._maker.of(saved, owner, wish, base=snapshot.id)

    async def _only(self, owner: str, ref: str) -> Sandbox:
        named = await self._records.named(owner, ref)
        if not named:
            raise NotFound(f"There is no sandbox {_shown(ref)}", hint="List the sandboxes, or create one")
        if len(named) > 1:
            ids = ", ".join(sandbox.id for sandbox in named)
            raise Conflict(f"The name {_shown(ref)} fits several sandboxes: {ids}", hint="Use one of these ids")
        return named[0]

    async def _image(self, name: str) -> ImageSet:
        images = await self._catalogue.find(name)
        if images is None:
            raise Unavailable(f"The image {name} is not built", hint=f"Build it: casemate image build {name}")
        return images

    async def _delete(self, sandbox_id: str) -> None:
        await self._finish(await self._records.change(sandbox_id, self._deleted))

    async def _delete_seen(self, seen: Sandbox) -> None:
        await self._finish(await self._records.save(self._deleted(seen)))

    def _deleted(self, sandbox: Sandbox) -> Sandbox:
        return sandbox.moved(State.DELETED, now_ms=self._clock())

    async def _guest_idle(self, sandbox: Sandbox) -> bool:
        machine = self._machines.get(sandbox.id)
        if machine is None:
            return False
        going_on = await machine.link.activity()
        return not (going_on.processes or going_on.terminals or going_on.connections)

    async def _finish(self, sandbox: Sandbox) -> None:
        with anyio.CancelScope(shield=True):
            # A wake that is under way sees that the record is gone, and leaves; one that hangs is not waited for.
            with anyio.move_on_after(_TURN_S):
                async with self._lives.turn(sandbox.id):
                    pass
            await self._teardown(sandbox)

    async def _teardown(self, sandbox: Sandbox) -> None:
        await self._machines.destroy(sandbox.id, sandbox.machine)
        self._admission.release(sandbox.id)
        await self._records.remove(sandbox.id)
        self._activity.forget(sandbox.id)

    async def _died(self, sandbox_id: str, reason: str) -> None:
        await self._lives.died(sandbox_id, reason)

    def _admit_ahead(self, key: Key) -> None:
        self._admission.check_ahead(key.mem)

    async def _settle_in(self) -> None:
        await self._snapshots.sweep()
        await self._templates.sweep()
        sleepers = await adopt(self._records, self._machines, self._lives)
        self._tasks.start_soon(self._wake_again, [sandbox.id for sandbox in sleepers])
        self._tasks.start_soon(self._again_and_again, self._clean)
        # For itself, since it waits for what it puts to sleep.
        self._tasks.start_soon(self._again_and_again, self._reaper.sweep)

    async def _let_go(self) -> None:
        try:
            with anyio.move_on_after(_RECORD_S):
                await self._reaper.record_uses()
        except (CasemateError, StoreError) as error:
            log.warning("uses not recorded", error=str(error))
        await self._pool.aclose()
        await self._machines.aclose()

    async def _wake_again(self, sleepers: Sequence[str]) -> None:
        for sandbox_id in sleepers:  # one after the other, so that those that are called for are not held up
            try:
                await self._lives.wake(sandbox_id)
            except CasemateError as error:
                log.warning("machine not woken", sandbox=sandbox_id, error=error.message)

    async def _keep_ready(self) -> None:
        if self._prepared is not None:
            name, cpu, mem = self._prepared
            # As it is today: an image may be built anew while the server runs.
            images = await self._catalogue.find(name)
            self._pool.keep(*([] if images is None else [Key(images=images, cpu=cpu, mem=mem)]))

    async def _clean(self) -> None:
        await self._machines.resume_stalled()
        await self._lives.record_deaths()
        await self._keep_ready()
        for sandbox in await self._records.in_state(State.DELETED):
            await self._teardown(sandbox)

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(self._sweep_s)
            try:
                await work()
            except (CasemateError, StoreError, OSError) as error:
                log.warning("sweep failed", error=str(error))


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


def _shown(ref: str) -> str:
    return repr(ref if len(ref) <= 80 else f"{ref[:80]}…")
