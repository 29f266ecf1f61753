"""Which sandboxes are in use, and when each was last used: in memory, for as long as the server runs.

A use is a call into a sandbox, or an open stream. Whatever changes a sandbox's state, such as putting it to sleep,
closes it: from then on new uses wait until it is open again. Checking that nobody uses it and closing it happen in
one step, so that no use can begin in between.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from ..errors import Conflict


@dataclass(slots=True)
class _Entry:
    users: int = 0
    used_ms: int = 0
    released: anyio.Event | None = None


class Activity:
    """The uses of sandboxes, by id.

    Args:
        now_ms: The clock, milliseconds since the epoch.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._entries: dict[str, _Entry] = {}

    @asynccontextmanager
    async def use(self, sandbox_id: str) -> AsyncGenerator[None]:
        """Use a sandbox for the length of a block. Waits while it is closed; the caller's deadline limits the wait.

        After the wait, the sandbox may have changed: it may be asleep, or gone. Read its record inside the block.
        """
        entry = self._entry(sandbox_id)
        while entry.released is not None:
            await entry.released.wait()
            entry = self._entry(sandbox_id)
        entry.users += 1
        try:
            yield
        finally:
            entry.users -= 1
            entry.used_ms = self._now_ms()

    @asynccontextmanager
    async def closed(self, sandbox_id: str) -> AsyncGenerator[None]:
        """Close a sandbox to new uses for the length of a block, even if in use. Waits while others have closed it.

        For what its owner requests: current uses lose their connection.
        """
        entry = self._entry(sandbox_id)
        while entry.released is not None:
            await entry.released.wait()
            entry = self._entry(sandbox_id)
        entry.released = anyio.Event()
        try:
            yield
        finally:
            released, entry.released = entry.released, None
            released.set()

    @asynccontextmanager
    async def claimed(self, sandbox_id: str, used_ms: int) -> AsyncGenerator[None]:
        """Close a sandbox for the length of a block, as `closed` does, if it is not in use.

        Args:
            sandbox_id: The sandbox.
            used_ms: Its last use when the caller decided to close it.

        Raises:
            Conflict: It is in use, or was used since.
        """
        async with self.closed(sandbox_id):
            # After closing no new use begins, and nothing ran between closing and this check.
            if self.in_use(sandbox_id) or self.used_ms(sandbox_id) != used_ms:
                raise Conflict(f"Sandbox {sandbox_id} is in use again")
            yield

    def touch(self, sandbox_id: str) -> None:
        """Record that a sandbox is used now."""
        self._entry(sandbox_id).used_ms = self._now_ms()

    def used_ms(self, sandbox_id: str) -> int:
        """Return when a sandbox was last used: now, if it is in use; 0 if this server has seen no use."""
        entry = self._entries.get(sandbox_id)
        if entry is None:
            return 0
        return self._now_ms() if entry.users else entry.used_ms

    def in_use(self, sandbox_id: str) -> bool:
        """Tell whether a sandbox is in use."""
        entry = self._entries.get(sandbox_id)
        return entry is not None and entry.users > 0

    def forget(self, sandbox_id: str) -> None:
        """Forget a deleted sandbox; calls that use it or wait for it are unaffected."""
        self._entries.pop(sandbox_id, None)

    def _entry(self, sandbox_id: str) -> _Entry:
        return self._entries.setdefault(sandbox_id, _Entry())
