"""Deletes sandboxes that nobody has used for long, or that are too old, among those with given labels.

The reaper knows a sandbox's own timers. Here the caller says what is too long, so that a change of its settings counts
for sandboxes that exist already.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import structlog

from ..errors import Conflict
from ..repeated_warnings import RepeatedWarnings
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .activity import Activity
from .delete import Deleter

_STATES = (State.RUNNING, State.ASLEEP, State.KILLED, State.ERROR)
_AT_ONCE = 10
_log = structlog.get_logger(__name__)


class Lapse:
    """Finds and deletes what has lapsed, whoever owns it.

    Args:
        store: The records of the sandboxes.
        activity: Which sandboxes are in use.
        deleter: Deletes them.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, *, store: SandboxStore, activity: Activity, deleter: Deleter, clock: Callable[[], int]) -> None:
        self._store = store
        self._activity = activity
        self._deleter = deleter
        self._clock = clock
        self._warnings = RepeatedWarnings()

    async def delete(self, labels: Mapping[str, str], *, unused_s: int, age_s: int) -> int:
        """Delete what was not used for so long, asleep or not, and what is so old, in use or not; count it.

        A failure with one sandbox is logged, and does not stop the others.

        Args:
            labels: Only sandboxes that have all of these.
            unused_s: Seconds since the last use; 0 is never.
            age_s: Seconds since the creation; 0 is never.

        Raises:
            CasemateError: The records cannot be read.
        """
        wanted = labels.items()
        found = [one for state in _STATES for one in await self._store.in_state(state) if wanted <= one.labels.items()]
        slots = anyio.CapacityLimiter(_AT_ONCE)
        deleted = 0

        async def look(sandbox: Sandbox) -> None:
            nonlocal deleted
            async with slots:
                with self._warnings.about("lapsed sandbox not deleted", sandbox=sandbox.id):
                    if await self._look(sandbox, unused_s * 1000, age_s * 1000):
                        deleted += 1

        async with anyio.create_task_group() as tasks:
            for sandbox in found:
                tasks.start_soon(look, sandbox)
        return deleted

    async def _look(self, sandbox: Sandbox, unused_ms: int, age_ms: int) -> bool:
        now_ms = self._clock()
        used_ms = self._activity.used_ms(sandbox.id)
        old = 0 < age_ms <= now_ms - sandbox.created_ms
        unused = 0 < unused_ms <= now_ms - max(used_ms, sandbox.active_ms)
        if not old and not unused:
            return False
        try:
            async with self._closed(sandbox, used_ms, in_use=old):
                await self._deleter.delete_seen(sandbox)
        except Conflict:
            return False  # Somebody used or changed it: the next sweep looks again.
        _log.info("sandbox lapsed", sandbox=sandbox.id, reason="it is too old" if old else "nobody used it")
        return True

    @asynccontextmanager
    async def _closed(self, sandbox: Sandbox, used_ms: int, *, in_use: bool) -> AsyncGenerator[None]:
        """Keep calls out of the sandbox; they find it gone, instead of losing their connection."""
        if in_use:
            async with self._activity.closed(sandbox.id):
                yield
        else:
            async with self._activity.claimed(sandbox.id, used_ms):
                yield
