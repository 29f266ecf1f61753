"""The sweep that time itself asks for: expired sandboxes are deleted, idle ones fall asleep, and uses are recorded.

A decision is made from a record and carried out on that very version of it: whoever renews a lease, or changes
anything else, meanwhile has changed the version, so that the step ends in a Conflict and the next sweep looks again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import structlog

from ..errors import CasemateError, Conflict
from ..repeated_warnings import RepeatedWarnings
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .activity import Activity

_AT_ONCE = 10
_ANSWER_S = 5.0
_RECORD_MS = 30_000
_PATIENCE_MS = 60_000
_log = structlog.get_logger(__name__)


class Reaper:
    """Decides from records and clocks what must end or sleep, and has others do it.

    Args:
        store: The records of the sandboxes.
        activity: Who uses which sandbox.
        sleep: Puts a sandbox to sleep whose last use was at the time given (`Activity.claimed`). Raises Conflict if it
            was used since, or the record is not in the version given any more; it runs on after any failure.
        delete: Deletes a sandbox. Raises Conflict if the record is not in the version given any more.
        guest_idle: Asks a sandbox's guest whether nothing goes on in it. May take for ever, or fail.
        retention_s: Seconds after which a sandbox that sleeps is deleted; 0 is never.
        now_ms: The clock, milliseconds since the epoch.
    """

    def __init__(
        self,
        store: SandboxStore,
        activity: Activity,
        *,
        sleep: Callable[[Sandbox, int], Awaitable[object]],
        delete: Callable[[Sandbox], Awaitable[object]],
        guest_idle: Callable[[Sandbox], Awaitable[bool]],
        retention_s: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._activity = activity
        self._sleep = sleep
        self._delete = delete
        self._guest_idle = guest_idle
        self._retention_s = retention_s
        self._now_ms = now_ms
        self._silent: dict[str, int] = {}
        self._warnings = RepeatedWarnings()

    async def sweep(self) -> None:
        """Look at every sandbox once. What fails for one is logged, and holds up no other.

        Raises:
            CasemateError: The records cannot be read.
        """
        running = await self._store.in_state(State.RUNNING)
        others = [one for state in (State.KILLED, State.ERROR) for one in await self._store.in_state(state)]
        sleeping = await self._store.in_state(State.ASLEEP) if self._retention_s else []
        living = {sandbox.id for sandbox in running}
        self._silent = {sandbox_id: until for sandbox_id, until in self._silent.items() if sandbox_id in living}
        limit = anyio.CapacityLimiter(_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for sandbox in (*running, *others, *sleeping):
                tasks.start_soon(self._look, sandbox, limit)

    async def record_uses(self) -> None:
        """Write down when each sandbox was used last, to be known after a restart. For the server's stop."""
        for sandbox in await self._store.in_state(State.RUNNING):
            async with self._told(sandbox):
                await self._recorded(sandbox, older_ms=1)

    async def _look(self, sandbox: Sandbox, limit: anyio.CapacityLimiter) -> None:
        async with limit, self._told(sandbox):
            now_ms = self._now_ms()
            if lease.expired(sandbox, now_ms) or lease.overslept(sandbox, self._retention_s, now_ms):
                await self._delete(sandbox)
                _log.info("sandbox deleted", sandbox=sandbox.id, reason=_end_of(sandbox))
            elif sandbox.state is State.RUNNING:
                await self._sleep_if_idle(await self._recorded(sandbox, older_ms=_RECORD_MS))

    async def _recorded(self, sandbox: Sandbox, *, older_ms: int) -> Sandbox:
        """The record with the last use in it, written if what it says is older by so much."""
        used_ms = self._activity.used_ms(sandbox.id)
        if used_ms - sandbox.active_ms < older_ms:
            return sandbox
        return await self._store.save(replace(sandbox, active_ms=used_ms))

    async def _sleep_if_idle(self, sandbox: Sandbox) -> None:
        """Put a sandbox to sleep if nobody misses it."""
        used_ms = self._activity.used_ms(sandbox.id)
        now_ms = self._now_ms()
        if not lease.idle(sandbox, used_ms, now_ms) or now_ms < self._silent.get(sandbox.id, 0):
            return
        if not await self._guest_is_idle(sandbox):
            return
        # A call that came and went while the guest was asked may have left something that runs.
        await self._sleep(sandbox, used_ms)
        _log.info("sandbox fell asleep", sandbox=sandbox.id, idle_s=sandbox.idle_s)

    async def _guest_is_idle(self, sandbox: Sandbox) -> bool:
        try:
            with anyio.fail_after(_ANSWER_S):
                idle = await self._guest_idle(sandbox)
        except (CasemateError, TimeoutError) as error:
            self._silent[sandbox.id] = self._now_ms() + _PATIENCE_MS
            _log.info("guest not asked", sandbox=sandbox.id, reason=str(error) or "it did not answer")
            return False
        if not idle:
            # What runs is a use like any other: its end is looked for when the sandbox could be idle again.
            self._activity.touch(sandbox.id)
        return idle

    @asynccontextmanager
    async def _told(self, sandbox: Sandbox) -> AsyncGenerator[None]:
        """Let nothing that goes wrong with one sandbox reach the others."""
        with self._warnings.about("sandbox not looked after", sandbox=sandbox.id):
            try:
                yield
            except Conflict as error:
                _log.debug("changed meanwhile", sandbox=sandbox.id, error=error.message)


def _end_of(sandbox: Sandbox) -> str:
    return "it slept for too long" if sandbox.state is State.ASLEEP else "its time is over"
