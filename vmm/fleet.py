"""The fleet: the one public door to sandboxes. Every call takes the owner, and here alone ownership is checked."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import anyio
import structlog
from anyio.abc import TaskGroup

from storage.errors import StoreError
from storage.ids import new_id

from . import lease
from .activity import Activity
from .admission import Admission
from .adoption import adopt
from .errors import CasemateError, Conflict, HostExhausted, LinkError, LinkTimeout, NotFound, Unavailable
from .forks import Fork, check_count, child_names
from .guest.link import GuestLink
from .guest_calls import GuestCalls
from .hypervisor.base import Hypervisor
from .images.catalogue import Catalogue, ImageSet
from .limits import HostReserve
from .lives import Lives, lost, unreachable
from .machine import Machine
from .machines import Machines
from .quotas import Quotas
from .reaper import Reaper
from .records import Records
from .sandbox import Sandbox, State
from .saved import Saved
from .snapshots import Snapshot, Snapshots
from .spec import SandboxSpec, check_labels, check_name
from .templates import Report, Templates
from .usage import Usage

log = structlog.get_logger(__name__)

_SWEEP_S = 5
_RECORD_S = 5
_PAGE_LIMIT = 100
_AT_ONCE = os.cpu_count() or 1


async def _silent(_step: str) -> None:
    pass


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


class Fleet(GuestCalls):
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
        own_memory: Whether each machine has a memory file of its own from the start, rather than from its first sleep.
        retention_s: Seconds after which a sandbox that sleeps is deleted; 0 is never.
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
        own_memory: bool = False,
        retention_s: int = 0,
        clock: Callable[[], int] = _now_ms,
        found: Callable[[str], None] = _unheard,
        started: Callable[[str], None] = _unheard,
    ) -> None:
        self._driver = driver
        self._catalogue = catalogue
        self._records = records
        self._own_memory = own_memory
        self._clock = clock
        self._found = found
        self._started = started
        self._tasks = tasks
        self._templates = Templates(driver, data / "templates", tasks, catalogue.verify)
        self._snapshots = Snapshots(data / "snapshots")
        self._admission = Admission(data, records, quotas, reserve)
        self._activity = Activity(clock)
        self._machines = Machines(driver, instances or data / "instances", tasks, self._died)
        self._lives = Lives(
            driver=driver,
            records=records,
            machines=self._machines,
            snapshots=self._snapshots,
            admission=self._admission,
            activity=self._activity,
            clock=clock,
            tasks=tasks,
            started=started,
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
        own_memory: bool = False,
        retention_s: int = 0,
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
                retention_s=retention_s,
                clock=clock,
                found=found,
                started=started,
            )
            await fleet._settle_in()
            tasks.start_soon(fleet._keep_clean)
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
        """Make sure that sandboxes of this image and size start by cloning.

        Raises:
            Unavailable: The image is not built, or the template cannot be.
        """
        await self._templates.get(await self._image(image), cpu=cpu, mem=mem, report=report or _silent)

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
        images = await self._image(spec.image)

        async def template() -> Saved:
            return await self._templates.get(images, cpu=spec.cpu, mem=spec.mem, report=on_progress or _silent)

        return await self._make(Sandbox.new(new_id(), owner, spec, now_ms=self._clock()), template)

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

    async def sleep(self, owner: str, ref: str) -> Sandbox:
        """Put a sandbox to sleep with its memory; one that sleeps goes on sleeping. Calls in it are broken off.

        Raises:
            Conflict: It does not run.
            HostExhausted: The host's disk is full; it runs on.
            Unavailable: The hypervisor could not save it; it runs on, if it lives.
        """
        return await self._lives.sleep((await self.get(owner, ref)).id)

    async def sleep_all(self) -> int:
        """Put all sandboxes to sleep, to be woken by the next start; returns how many sleep. What fails runs on."""
        asleep = 0
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def put(sandbox_id: str) -> None:
            nonlocal asleep
            async with slots:
                try:
                    await self._lives.sleep(sandbox_id, wake_at_start=True)
                    asleep += 1
                except CasemateError as error:
                    log.warning("machine not put to sleep", sandbox=sandbox_id, error=error.message)

        async with anyio.create_task_group() as tasks:
            for sandbox_id in self._machines.sandboxes():
                tasks.start_soon(put, sandbox_id)
        return asleep

    async def wake(self, owner: str, ref: str) -> Sandbox:
        """Wake a sandbox; one that runs goes on. Any other call in it does the same by itself.

        Raises:
            Conflict: Another hypervisor put it to sleep, or it cannot wake from its state.
            SandboxLost: Its machine has died.
            LimitExceeded: The owner's other sandboxes take what they may.
            HostExhausted: The host lacks memory.
            Unavailable: The hypervisor failed.
        """
        return await self._lives.wake((await self.get(owner, ref)).id)

    async def revive(self, owner: str, ref: str) -> Sandbox:
        """Let a sandbox run again, whatever has become of it: from its sleep, its newest snapshot, or its disk.

        `reason` of the result says what it was started from and what is lost; it is empty if nothing is.

        Raises:
            SandboxLost: Nothing is left to start from.
            LimitExceeded: The owner's other sandboxes take what they may.
            HostExhausted: The host lacks memory or disk.
            Unavailable: The hypervisor failed.
        """
        return await self._lives.revive((await self.get(owner, ref)).id)

    async def snapshot(
        self, owner: str, ref: str, *, name: str = "", labels: Mapping[str, str] | None = None, created_by: str = ""
    ) -> Snapshot:
        """Keep what a running or sleeping sandbox is now. It goes on, with its open streams.

        Args:
            owner: Whose.
            ref: Which.
            name: DNS-1123 subdomain; the sandbox's name with a number if empty.
            labels: At most 5 short pairs.
            created_by: Opaque id of the user.

        Raises:
            InvalidInput: A value cannot be.
            SandboxLost: It neither runs nor sleeps.
            LimitExceeded: The owner has enough snapshots.
            HostExhausted: The host's disk is full; the sandbox goes on.
            Unavailable: The hypervisor could not save it.
        """
        if name:
            check_name(name)
        check_labels(labels or {})
        sandbox = await self.get(owner, ref)
        async with self._lives.turn(sandbox.id):
            sandbox = await self.get(owner, sandbox.id)
            existing = await self._snapshots.owned(owner)
            await self._admission.check_snapshot(owner, len(existing))
            snapshot_id = new_id()
            draft = await self._snapshots.draft(snapshot_id)
            try:
                await self._lives.moment(sandbox, draft)
                snapshot = Snapshot(
                    id=snapshot_id,
                    owner=owner,
                    sandbox=sandbox.id,
                    sandbox_name=sandbox.name,
                    name=name or child_names(sandbox.name, {snapshot.name for snapshot in existing}, 1)[0],
                    parent=sandbox.base,
                    image=sandbox.image,
                    cpu=sandbox.cpu,
                    mem=sandbox.mem,
                    disk=sandbox.disk,
                    driver=self._driver.fingerprint,
                    labels=dict(labels or {}),
                    env=dict(sandbox.env),
                    created_ms=self._clock(),
                    created_by=created_by,
                )
                return await self._snapshots.publish(snapshot, draft)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._snapshots.discard(draft)
                raise

    async def snapshots(self, owner: str, *, sandbox: str = "") -> tuple[Snapshot, ...]:
        """The owner's snapshots, newest first; with a sandbox named, by id or name, those that were taken of it."""
        owned = await self._snapshots.owned(owner)
        if not sandbox:
            return tuple(owned)
        taken = tuple(snapshot for snapshot in owned if sandbox in {snapshot.sandbox, snapshot.sandbox_name})
        if taken:  # also of a sandbox that is gone
            return taken
        found = await self.get(owner, sandbox)
        return tuple(snapshot for snapshot in owned if snapshot.sandbox == found.id)

    async def get_snapshot(self, owner: str, ref: str) -> Snapshot:
        """One snapshot, by id, by name, or by the beginning of its id.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name or the beginning fits several; the message lists their ids.
        """
        return await self._snapshots.find(owner, ref)

    async def rename_snapshot(self, owner: str, ref: str, name: str) -> Snapshot:
        """Give a snapshot another name.

        Raises:
            InvalidInput: The name cannot be.
        """
        check_name(name)
        return await self._snapshots.rename(await self._snapshots.find(owner, ref), name)

    async def delete_snapshot(self, owner: str, ref: str) -> None:
        """Delete a snapshot.

        Raises:
            Conflict: Snapshots or sandboxes were made from it; the message names them.
        """
        snapshot = await self._snapshots.find(owner, ref)
        children = [
            f"snapshot {other.name} ({other.id})"
            for other in await self._snapshots.owned(owner)
            if other.parent == snapshot.id
        ]
        children += [
            f"sandbox {sandbox.name} ({sandbox.id})"
            for sandbox in await self._records.owned(owner)
            if sandbox.base == snapshot.id and sandbox.id != snapshot.sandbox
        ]
        if children:
            raise Conflict(
                f"Snapshot {snapshot.name} ({snapshot.id}) has children: {', '.join(children)}",
                hint="Delete these first",
            )
        await self._snapshots.remove(snapshot)

    async def restore(self, owner: str, ref: str, snapshot: str) -> Sandbox:
        """Put a sandbox back to a snapshot in place, whatever state it is in. If that fails, it is as it was.

        Raises:
            NotFound: There is no such sandbox or snapshot.
            Conflict: The snapshot is of another image or size, or another hypervisor's.
            Unavailable: A file of the snapshot is damaged, or the hypervisor failed.
            HostExhausted: The host lacks memory or disk.
        """
        sandbox = await self.get(owner, ref)
        return await self._lives.restore(sandbox, await self._snapshots.find(owner, snapshot))

    async def fork(
        self, owner: str, ref: str, count: int = 1, *, created_by: str = "", on_progress: Report | None = None
    ) -> tuple[Fork, ...]:
        """Make children of a running sandbox's present moment: its memory, its files, its background commands.

        The parent goes on, with its open streams. Each child is named after it, and has a result of its own.

        Raises:
            InvalidInput: The count is not 1 to 100.
            Conflict: It sleeps.
            SandboxLost: Its machine has died.
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor could not save it.
        """
        check_count(count)
        parent = await self.get(owner, ref)
        async with self._lives.turn(parent.id):
            parent = await self.get(owner, parent.id)
            if parent.state is not State.RUNNING:
                hint = "Wake it first" if parent.state is State.ASLEEP else "Start it first, or fork another one"
                raise Conflict(f"Sandbox {parent.id} is {parent.state}, only a running one can be forked", hint=hint)
            await (on_progress or _silent)(f"Saving {parent.name}")
            base = await self._snapshots.fork_base(new_id())
            try:
                saved = await self._lives.moment(parent, base)
                return await self._children(parent, saved, count, created_by)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._snapshots.discard(base)

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
            raise unreachable(sandbox)
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
        async with self._lives.turn(sandbox.id):  # what ended it may still be on its way into the record
            found = await self._records.find(sandbox.id)
        if found is None or found.state is State.DELETED:
            return NotFound(f"Sandbox {sandbox.id} was deleted during the call")
        if found.state is State.ASLEEP or self._machines.get(sandbox.id) is not None:
            did = "put to sleep" if found.state is State.ASLEEP else "put back to a snapshot"
            return Conflict(
                f"Sandbox {sandbox.id} was {did} during the call; whether it took effect is not known",
                hint="Look, then call again",
            )
        return lost(sandbox, found.reason or "its virtual machine ended")

    async def _create_from(self, owner: str, spec: SandboxSpec) -> Sandbox:
        snapshot = await self._snapshots.find(owner, spec.snapshot)
        wish = replace(spec, image=snapshot.image, cpu=snapshot.cpu, mem=snapshot.mem, env={**snapshot.env, **spec.env})
        _check(wish, {snapshot.image})
        saved = await self._lives.source(snapshot)

        async def moment() -> Saved:
            return saved

        new = Sandbox.new(new_id(), owner, wish, now_ms=self._clock())
        return await self._make(replace(new, base=snapshot.id), moment)

    async def _make(self, sandbox: Sandbox, source: Callable[[], Awaitable[Saved]]) -> Sandbox:
        await self._admission.admit(sandbox)
        self._found(sandbox.id)
        try:
            saved = await source()
            machine = await Machine.clone(
                self._driver,
                saved,
                self._machines.directory(sandbox.machine),
                hostname=sandbox.name,
                own=self._own_memory,
            )
            self._machines.attach(sandbox.id, machine)
            running = replace(sandbox.moved(State.RUNNING, now_ms=self._clock()), memory=machine.running.memory.value)
            sandbox = await self._records.save(running)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._teardown(sandbox)
            raise
        self._started(sandbox.memory)
        return sandbox

    async def _children(self, parent: Sandbox, saved: Saved, count: int, created_by: str) -> tuple[Fork, ...]:
        taken = {sandbox.name for sandbox in await self._records.owned(parent.owner)}
        forks: list[Fork] = [Fork()] * count
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def moment() -> Saved:
            return saved

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
                created_by=created_by or parent.created_by,
            )
            child = replace(Sandbox.new(new_id(), parent.owner, spec, now_ms=self._clock()), base=parent.base)
            async with slots:
                try:
                    forks[number] = Fork(sandbox=await self._make(child, moment))
                except CasemateError as error:
                    forks[number] = Fork(error=error)

        async with anyio.create_task_group() as tasks:
            for number, name in enumerate(child_names(parent.name, taken, count)):
                tasks.start_soon(make, number, name)
        return tuple(forks)

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
        await self._end(await self._records.change(sandbox_id, self._deleted))

    async def _delete_seen(self, seen: Sandbox) -> None:
        await self._end(await self._records.save(self._deleted(seen)))

    def _deleted(self, sandbox: Sandbox) -> Sandbox:
        return sandbox.moved(State.DELETED, now_ms=self._clock())

    async def _guest_idle(self, sandbox: Sandbox) -> bool:
        machine = self._machines.get(sandbox.id)
        if machine is None:
            return False
        going_on = await machine.link.activity()
        return not (going_on.processes or going_on.terminals or going_on.connections)

    async def _end(self, sandbox: Sandbox) -> None:
        with anyio.CancelScope(shield=True):
            await self._teardown(sandbox)

    async def _teardown(self, sandbox: Sandbox) -> None:
        await self._machines.destroy(sandbox.id, sandbox.machine)
        self._admission.release(sandbox.id)
        await self._records.remove(sandbox.id)
        self._activity.forget(sandbox.id)

    async def _died(self, sandbox_id: str, reason: str) -> None:
        await self._lives.died(sandbox_id, reason)

    async def _settle_in(self) -> None:
        await self._snapshots.sweep()
        await self._templates.sweep()
        for sandbox in await adopt(self._records, self._machines, self._lives):
            self._tasks.start_soon(self._wake_again, sandbox.id)

    async def _let_go(self) -> None:
        try:
            with anyio.move_on_after(_RECORD_S):
                await self._reaper.record_uses()
        except (CasemateError, StoreError) as error:
            log.warning("uses not recorded", error=str(error))
        await self._machines.aclose()

    async def _wake_again(self, sandbox_id: str) -> None:
        try:
            await self._lives.wake(sandbox_id)
        except CasemateError as error:
            log.warning("machine not woken", sandbox=sandbox_id, error=error.message)

    async def _keep_clean(self) -> None:
        while True:
            await anyio.sleep(_SWEEP_S)
            try:
                await self._machines.resume_stalled()
                await self._lives.record_deaths()
                await self._reaper.sweep()
                for sandbox in await self._records.in_state(State.DELETED):
                    await self._teardown(sandbox)
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
