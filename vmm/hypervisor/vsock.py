"""The guest link over vsock, as cloud-hypervisor offers it on the host: a unix socket with a greeting.

Source: docs/vsock.md of v53.0: `CONNECT PORT`, answered by a line that begins with OK.
"""

from __future__ import annotations

from pathlib import Path

import anyio
from anyio.abc import ByteStream, UNIXSocketStream

from ..errors import LinkError
from .base import GUEST_PORT
from .startup import connect_unix

_GREETING_MOST = 64
_GREETING_S = 5.0


async def connect_vsock(socket: Path) -> ByteStream:
    """Connect to the agent.

    Args:
        socket: The machine's socket for vsock.

    Raises:
        LinkError: Nobody listens there: the hypervisor has ended, or the agent is not up yet.
    """
    try:
        stream = await connect_unix(socket)
    except OSError as error:
        raise LinkError("The sandbox's control socket is closed: its virtual machine has ended") from error
    try:
        with anyio.fail_after(_GREETING_S):
            await stream.send(f"CONNECT {GUEST_PORT}\n".encode())
            await _accepted(stream)
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, OSError | anyio.BrokenResourceError | anyio.EndOfStream):
            raise LinkError("The guest's agent does not listen") from error
        raise
    return stream


async def _accepted(stream: UNIXSocketStream) -> None:
    """Read the answer to CONNECT, and nothing beyond it."""
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive(1)
        if len(line) > _GREETING_MOST:
            break
    if not line.startswith(b"OK"):
        raise anyio.EndOfStream
