"""Creates sandboxes, new ones and forks: afterwards the record and the machine exist, or neither does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
import structlog
from anyio.abc import TaskGroup

from storage.ids import new_id

from ..errors import CasemateError, Conflict, NotFound, Unavailable
from ..machines.checkpoint import Checkpoint
from ..machines.machine import Machine
from ..machines.registry import MachineRegistry
from ..machines.templates import Report
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.spec import SandboxSpec
from ..sandboxes.store import SandboxStore
from .admission import Admission
from .attachments import Attachments, resume_programs
from .creations import Creation, Creations
from .forks import Fork, ForkedVolume, child_names, mounts_of
from .plan import Plan, Planner
from .volume_keeper import VolumeKeeper

log = structlog.get_logger(__name__)

_AT_ONCE = os.cpu_count() or 1


class Creator:
    """Creates sandboxes: records and machines together.

    Args:
        planner: Checks what is requested.
        store: The records of the sandboxes.
        machines: The machines that run.
        admission: Checks limits.
        attachments: Which machines have which volumes.
        keeper: Copies volumes for forks.
        tasks: Runs the creations that nobody waits for.
        creations: Where those are noted.
        clock: Milliseconds since the epoch.
        on_sandbox: Called with the id of each new sandbox.
        on_start: Called with how each machine got its memory.
        on_undone: Called with the id of each sandbox of which nothing is left, as its creation failed.
    """

    def __init__(
        self,
        *,
        planner: Planner,
        store: SandboxStore,
        machines: MachineRegistry,
        admission: Admission,
        attachments: Attachments,
        keeper: VolumeKeeper,
        tasks: TaskGroup,
        creations: Creations,
        clock: Callable[[], int],
        on_sandbox: Callable[[str], None],
        on_start: Callable[[str], None],
        on_undone: Callable[[str], None] | None = None,
    ) -> None:
        self._planner = planner
        self._store = store
        self._machines = machines
        self._admission = admission
        self._attachments = attachments
        self._keeper = keeper
        self._tasks = tasks
        self._creations = creations
        self._clock = clock
        self._on_sandbox = on_sandbox
        self._on_start = on_start
        self._on_undone = on_undone

    async def create(self, owner: str, spec: SandboxSpec, report: Report) -> Sandbox:
        """Create a sandbox of an image, or of the snapshot that the spec names; see `SandboxCalls.create`."""
        return await self._make(await self._planner.of(owner, spec, report))

    async def begin(self, owner: str, spec: SandboxSpec, report: Report, *, wait_s: float) -> Sandbox:
        """Admit a sandbox, create it in the background, and wait for it; see `SandboxCalls.begin`."""
        plan = await self._planner.of(owner, spec, report)
        await self._admission.admit(plan.sandbox)
        self._on_sandbox(plan.sandbox.id)
        creation = self._creations.begin(plan.sandbox.id)
        self._tasks.start_soon(self._finish, plan, creation)
        return await creation.outcome(wait_s) or plan.sandbox

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
                        plan = await self._planner.of_checkpoint(
                            checkpoint, parent.owner, own, base=parent.base, sandbox_id=sandbox_id
                        )
                        forks[number] = Fork(sandbox=await self._make(plan))
                except CasemateError as error:
                    forks[number] = Fork(error=error)
                except Exception as error:
                    log.exception("child not made", parent=parent.id, name=name)
                    forks[number] = Fork(error=Unavailable(f"The fork failed: {type(error).__name__}"))

        async with anyio.create_task_group() as tasks:
            for number, name in enumerate(child_names(parent.name, taken, count)):
                tasks.start_soon(make, number, name)
        return tuple(forks)

    async def _finish(self, plan: Plan, creation: Creation) -> None:
        try:
            creation.succeed(await self._complete(plan, creation))
        except Exception as error:
            if not creation.fail(error):
                trace = None if isinstance(error, CasemateError) else error
                log.warning("sandbox not created", sandbox=plan.sandbox.id, reason=_reason(error), exc_info=trace)
        finally:
            self._creations.end(plan.sandbox.id)

    async def _make(self, plan: Plan) -> Sandbox:
        await self._admission.admit(plan.sandbox)
        self._on_sandbox(plan.sandbox.id)
        return await self._complete(plan)

    async def _complete(self, plan: Plan, creation: Creation | None = None) -> Sandbox:
        sandbox = plan.sandbox
        machine: Machine | None = None
        try:
            machine = await plan.make(sandbox)
            self._machines.attach(sandbox.id, machine)
            for volume, attachment in plan.volumes:
                await self._attachments.attach(sandbox, machine, volume, attachment)
            if plan.saved:
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
            await self._machines.networked(sandbox.id)
        except BaseException as error:
            deleted = False
            # A server that stops leaves nothing of it: nobody would go on with it.
            kept = creation is not None and isinstance(error, Exception) and not creation.is_told()
            reason = _reason(error) if kept else ""
            with anyio.CancelScope(shield=True):
                deleted = await self._undo(sandbox, machine, reason)
            if deleted and isinstance(error, CasemateError):
                raise NotFound(f"Sandbox {sandbox.id} was deleted while it was created") from error
            raise
        self._on_start(saved.memory)
        return saved

    async def _undo(self, sandbox: Sandbox, machine: Machine | None, reason: str) -> bool:
        """Remove everything of a sandbox that was not created, and tell whether somebody deleted it in the meantime.

        With a reason, its record stays as an error, for the owner to see and delete.
        """
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
        if reason:
            with suppress(NotFound, Conflict):  # deleted in the meantime
                await self._store.change(
                    sandbox.id, lambda found: found.moved(State.ERROR, now_ms=self._clock(), reason=reason)
                )
                return False
        found = await self._store.find(sandbox.id)
        await self._store.remove(sandbox.id)
        return found is None or found.state is State.DELETED


def _reason(error: BaseException) -> str:
    return f"it was not created: {error.message if isinstance(error, CasemateError) else type(error).__name__}"
