"""The fleet: the one public door to sandboxes. Every call takes the owner, and here alone ownership is checked."""

from __future__ import annotations

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

from .errors import CasemateError, Conflict, HostExhausted, LinkError, LinkTimeout, NotFound, SandboxLost, Unavailable
from .guest.link import GuestLink
from .guest_calls import GuestCalls
from .hypervisor.base import Hypervisor
from .images.catalogue import Catalogue, ImageSet
from .limits import HostReserve
from .machines import Machines
from .quotas import Quotas
from .records import Records
from .sandbox import Sandbox, State
from .spec import SandboxSpec, check_labels, check_name
from .templates import Report, Templates
from .usage import Usage

log = structlog.get_logger(__name__)

_TRIES = 10
_SWEEP_S = 5
_PAGE_LIMIT = 100
_KEEP_THEIR_FILES = (State.ASLEEP, State.KILLED, State.ERROR)
_LOST = "its memory and running processes are lost"


async def _silent(_step: str) -> None:
    pass


def _unheard(_sandbox_id: str) -> None:
    pass


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
        data: The data directory; `instances` and `templates` below it belong to the fleet.
        driver: The hypervisor.
        catalogue: The images.
        records: The sandboxes' records.
        quotas: What each owner may have.
        reserve: What must stay free on the host.
        tasks: Where machines are watched and templates built.
        instances: Where machines have their directories, if not below the data directory.
        found: Told the id of each sandbox that a call is about, once it is known.
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
        found: Callable[[str], None] = _unheard,
    ) -> None:
        self._data = data
        self._driver = driver
        self._catalogue = catalogue
        self._records = records
        self._quotas = quotas
        self._reserve = reserve
        self._found = found
        self._templates = Templates(driver, data / "templates", tasks, catalogue.verify)
        self._machines = Machines(driver, instances or data / "instances", tasks, self._died)
        self._promised: dict[str, int] = {}
        self._unrecorded: dict[str, str] = {}
        self._admission = anyio.Lock()

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
        found: Callable[[str], None] = _unheard,
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
                found=found,
            )
            await fleet._adopt()
            tasks.start_soon(fleet._keep_clean)
            try:
                yield fleet
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await fleet._machines.aclose()

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

        Raises:
            InvalidInput: The wish cannot be.
            LimitExceeded: The owner has enough.
            HostExhausted: The host lacks memory or disk.
            Unavailable: The image is not built, or the machine did not come up.
        """
        spec.check(self.images())
        images = await self._image(spec.image)
        sandbox = await self._admit(owner, spec)
        self._found(sandbox.id)
        try:
            template = await self._templates.get(images, cpu=spec.cpu, mem=spec.mem, report=on_progress or _silent)
            await self._machines.clone(sandbox.id, template, hostname=spec.name)
            sandbox = await self._records.save(sandbox.moved(State.RUNNING, now_ms=_now_ms()))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._teardown(sandbox.id)
            raise
        return sandbox

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
    ) -> Sandbox:
        """Change what may be changed; what is None stays.

        Raises:
            InvalidInput: A new value cannot be.
        """
        if name is not None:
            check_name(name)
        if labels is not None:
            check_labels(labels)

        def changed(sandbox: Sandbox) -> Sandbox:
            return replace(
                sandbox,
                name=sandbox.name if name is None else name,
                labels=sandbox.labels if labels is None else dict(labels),
                auto_sleep=sandbox.auto_sleep if auto_sleep is None else auto_sleep,
                updated_ms=_now_ms(),
            )

        return await self._change(owner, ref, changed)

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a sandbox with everything in it. Never needs the guest; what a crash leaves, the sweep finishes."""
        sandbox = await self._change(owner, ref, lambda found: found.moved(State.DELETED, now_ms=_now_ms()))
        with anyio.CancelScope(shield=True):
            await self._teardown(sandbox.id)

    async def health(self, image: str) -> dict[str, str]:
        """The parts that creating a sandbox of an image needs, each with what is wrong with it, or nothing."""
        return {
            "store": await _trouble(self._records.ping),
            "hypervisor": await _trouble(self._driver.probe),
            "image": await _trouble(lambda: self._image(image)),
        }

    @asynccontextmanager
    async def reach(self, owner: str, ref: str) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        """Find a sandbox of the owner and the link to its guest, for one operation; see `GuestCalls.reach`."""
        sandbox = await self.get(owner, ref)
        machine = self._machines.get(sandbox.id)
        if sandbox.state is not State.RUNNING or machine is None:
            raise _unreachable(sandbox)
        try:
            yield sandbox, machine.link
        except LinkError as error:
            if not isinstance(error, LinkTimeout) and await self._machines.gone(sandbox.id):
                found = await self._records.find(sandbox.id) or sandbox
                raise _lost(sandbox, found.reason or "its virtual machine ended") from error
            ailment = await self._machines.ailment(sandbox.id)
            if ailment:
                raise HostExhausted(
                    f"Sandbox {sandbox.id} does not run: {ailment}",
                    hint="It goes on by itself, with nothing lost, once the host has room again",
                ) from error
            raise

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

    async def _admit(self, owner: str, spec: SandboxSpec) -> Sandbox:
        limits = await self._quotas.of(owner)
        async with self._admission:
            limits.check(await self._records.owned(owner), spec)
            self._reserve.check(self._data, sum(self._promised.values()), spec)
            sandbox = Sandbox.new(new_id(), owner, spec, now_ms=_now_ms())
            self._promised[sandbox.id] = spec.mem
            try:
                await self._records.insert(sandbox)
            except BaseException:
                del self._promised[sandbox.id]
                raise
        return sandbox

    async def _change(self, owner: str, ref: str, change: Callable[[Sandbox], Sandbox]) -> Sandbox:
        for _ in range(_TRIES):
            wanted = change(await self.get(owner, ref))
            try:
                return await self._records.save(wanted)
            except Conflict:
                continue
        raise Conflict(f"Sandbox {_shown(ref)} is being changed by many at once", hint="Try again")

    async def _teardown(self, sandbox_id: str) -> None:
        await self._machines.destroy(sandbox_id)
        self._promised.pop(sandbox_id, None)
        await self._records.remove(sandbox_id)

    async def _died(self, sandbox_id: str, reason: str) -> None:
        self._promised.pop(sandbox_id, None)
        log.warning("machine died", sandbox=sandbox_id, reason=reason)
        self._unrecorded[sandbox_id] = reason
        try:
            await self._record_deaths()
        except CasemateError as error:
            log.warning("death not recorded yet", sandbox=sandbox_id, error=error.message)

    async def _record_deaths(self) -> None:
        for sandbox_id, reason in list(self._unrecorded.items()):
            sandbox = await self._records.find(sandbox_id)
            if sandbox is not None and sandbox.state.may_become(State.KILLED):
                try:
                    await self._records.save(sandbox.moved(State.KILLED, now_ms=_now_ms(), reason=reason))
                except Conflict:
                    continue  # changed meanwhile: the next round looks at it again
            self._unrecorded.pop(sandbox_id, None)

    async def _adopt(self) -> None:
        running = await self._records.in_state(State.RUNNING)
        still = [sandbox for state in _KEEP_THEIR_FILES for sandbox in await self._records.in_state(state)]
        ids = {sandbox.id for sandbox in running}
        swept = await self._machines.sweep(running=ids, kept=ids | {sandbox.id for sandbox in still})
        await self._templates.sweep()
        unfinished = [*await self._records.in_state(State.CREATING), *await self._records.in_state(State.DELETED)]
        for sandbox in unfinished:
            await self._teardown(sandbox.id)
        adopted = 0
        for sandbox in running:
            if self._machines.adopt(sandbox.id):
                self._promised[sandbox.id] = sandbox.mem
                adopted += 1
            else:
                await self._died(sandbox.id, "its virtual machine ended while the server was down")
        log.info("adopted", machines=adopted, lost=len(running) - adopted, removed=swept + len(unfinished))

    async def _keep_clean(self) -> None:
        while True:
            await anyio.sleep(_SWEEP_S)
            try:
                await self._machines.resume_stalled()
                await self._record_deaths()
                for sandbox in await self._records.in_state(State.DELETED):
                    await self._teardown(sandbox.id)
            except (CasemateError, StoreError, OSError) as error:
                log.warning("sweep failed", error=str(error))


async def _trouble(probe: Callable[[], Awaitable[object]]) -> str:
    try:
        await probe()
    except (CasemateError, StoreError) as error:
        return str(error)
    return ""


def _unreachable(sandbox: Sandbox) -> CasemateError:
    if sandbox.state is State.KILLED or sandbox.state is State.RUNNING:
        return _lost(sandbox, sandbox.reason or "its virtual machine ended")
    return Conflict(f"Sandbox {sandbox.id} is {sandbox.state}", hint="Wait until it runs, or delete it")


def _lost(sandbox: Sandbox, reason: str) -> SandboxLost:
    return SandboxLost(
        f"Sandbox {sandbox.id} ({sandbox.name}) is lost: {reason}; {_LOST}",
        hint="Delete it and create a new one",
    )


def _shown(ref: str) -> str:
    return repr(ref if len(ref) <= 80 else f"{ref[:80]}…")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
