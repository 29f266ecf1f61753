"""The way to a port: a byte stream to a TCP server on a guest's localhost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from anyio.abc import ByteStream

if TYPE_CHECKING:
    from vmm.fleet import Fleet

Dial = Callable[[str, str, int], AbstractAsyncContextManager[ByteStream]]
"""Connects to a port, for the length of a block: owner, the sandbox's id or name, port. Wakes a sandbox that sleeps.

Raises Conflict if nothing listens there.
"""


def dial_guest(fleet: Fleet) -> Dial:
    """Connect over the guest link. An open connection counts as use, and keeps its sandbox awake."""

    @asynccontextmanager
    async def dial(owner: str, ref: str, port: int) -> AsyncGenerator[ByteStream]:
        async with fleet.guest.reach(owner, ref) as (_, link), link.connect(port) as stream:
            yield stream

    return dial
