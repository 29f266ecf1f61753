"""The way to ports of a sandbox that is this host."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream

from vmm.errors import Conflict


@asynccontextmanager
async def dial(_owner: str, _ref: str, port: int) -> AsyncGenerator[ByteStream]:
    """Connect to a port of this host, as the guest link does to one of a guest."""
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        raise Conflict(f"Nothing listens on port {port}", hint="Start a server there") from None
    async with stream:
        yield stream
