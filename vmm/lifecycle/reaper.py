"""The sweep over timers: deletes expired sandboxes, puts idle ones to sleep, and records uses.

A decision is based on one version of a record and carried out only on that version: if somebody renews a lease, or
changes anything else, in the meantime, the step ends in a Conflict and the next sweep looks again.
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
    """Decides from records and timers which sandboxes to delete or put to sleep, and calls others to do it.

    Args:
        store: The records of the sandboxes.
        activity: Which sandboxes are in use.
        sleep: Puts a sandbox to sleep whose last use was at the given time (`Activity.claimed`). Raises Conflict if it
            was used since, or the record has changed; after any failure the sandbox keeps running.
        delete: Deletes a sandbox. Raises Conflict if the record has changed.
        guest_idle: Asks a sandbox's guest whether it is idle. May hang or fail.
        retention_s: Seconds after which a sleeping sandbox is deleted; 0 is never.
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
        """Check every sandbox once. A failure with one is logged, and does not stop the others.

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
        """Record when each sandbox was last used, to know it after a restart. For when the server stops."""
        for sandbox in await self._store.in_state(State.RUNNING):
            async with self._logged(sandbox):
                await self._recorded(sandbox, older_ms=1)

    async def _look(self, sandbox: Sandbox, limit: anyio.CapacityLimiter) -> None:
        async with limit, self._logged(sandbox):
            now_ms = self._now_ms()
            if lease.expired(sandbox, now_ms) or lease.overslept(sandbox, self._retention_s, now_ms):
                await self._delete(sandbox)
                _log.info("sandbox deleted", sandbox=sandbox.id, reason=_reason(sandbox))
            elif sandbox.state is State.RUNNING:
                await self._sleep_if_idle(await self._recorded(sandbox, older_ms=_RECORD_MS))

    async def _recorded(self, sandbox: Sandbox, *, older_ms: int) -> Sandbox:
        """Record the last use, if the recorded one is older than that by so many milliseconds."""
        used_ms = self._activity.used_ms(sandbox.id)
        if used_ms - sandbox.active_ms < older_ms:
            return sandbox
        return await self._store.save(replace(sandbox, active_ms=used_ms))

    async def _sleep_if_idle(self, sandbox: Sandbox) -> None:
        """Put a sandbox to sleep if it is idle."""
        used_ms = self._activity.used_ms(sandbox.id)
        now_ms = self._now_ms()
        if not lease.idle(sandbox, used_ms, now_ms) or now_ms < self._silent.get(sandbox.id, 0):
            return
        if not await self._guest_is_idle(sandbox):
            return
        # A call that came and went while the guest was asked may have started something.
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
            # What runs counts as use: ask again once the sandbox could be idle again.
            self._activity.touch(sandbox.id)
        return idle

    @asynccontextmanager
    async def _logged(self, sandbox: Sandbox) -> AsyncGenerator[None]:
        """Log any failure with one sandbox, so that the others are not affected."""
        with self._warnings.about("sandbox not checked", sandbox=sandbox.id):
            try:
                yield
            except Conflict as error:
                _log.debug("changed meanwhile", sandbox=sandbox.id, error=error.message)


def _reason(sandbox: Sandbox) -> str:
    return "it has slept for too long" if sandbox.state is State.ASLEEP else "its time to live is over"
