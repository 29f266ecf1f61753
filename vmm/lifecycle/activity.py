"""Which sandboxes are in use at the moment, and when each was used last: in memory, for one server's life.

A use is a call into a sandbox, or a stream that is open. Who changes a sandbox's life, to put it to sleep for example,
closes it: from then on those who want to use it wait until it is open again. Whether it may be closed because nobody
uses it is decided without a moment in between in which a use could slip in.
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
    """The uses of sandboxes, by their ids.

    Args:
        now_ms: The clock, milliseconds since the epoch.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._entries: dict[str, _Entry] = {}

    @asynccontextmanager
    async def use(self, sandbox_id: str) -> AsyncGenerator[None]:
        """Use a sandbox for the length of a block. Waits while it is closed; the caller's deadline is the limit.

        After the wait the sandbox may be another than before: asleep, or gone. Look at its record inside the block.
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
        """Close a sandbox to new users for the length of a block, whoever uses it. Waits while others have closed it.

        For what its owner orders: those who use it at the moment lose their connection.
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
        """Close a sandbox for the length of a block, as `closed` does, if nobody would miss it.

        Args:
            sandbox_id: Which.
            used_ms: Its last use when that was decided.

        Raises:
            Conflict: It is in use, or was used since.
        """
        async with self.closed(sandbox_id):
            # From the closing on no new use begins, and there was no moment between that and this look.
            if self.in_use(sandbox_id) or self.used_ms(sandbox_id) != used_ms:
                raise Conflict(f"Sandbox {sandbox_id} is in use again")
            yield

    def touch(self, sandbox_id: str) -> None:
        """Note that a sandbox was used just now."""
        self._entry(sandbox_id).used_ms = self._now_ms()

    def used_ms(self, sandbox_id: str) -> int:
        """When a sandbox was used last: now, if somebody uses it; 0 if this server has seen no use."""
        entry = self._entries.get(sandbox_id)
        if entry is None:
            return 0
        return self._now_ms() if entry.users else entry.used_ms

    def in_use(self, sandbox_id: str) -> bool:
        """Whether anybody uses a sandbox at the moment."""
        entry = self._entries.get(sandbox_id)
        return entry is not None and entry.users > 0

    def forget(self, sandbox_id: str) -> None:
        """Let go of what is known of a sandbox that is no more; those who use it or wait for it come to no harm."""
        self._entries.pop(sandbox_id, None)

    def _entry(self, sandbox_id: str) -> _Entry:
        return self._entries.setdefault(sandbox_id, _Entry())
