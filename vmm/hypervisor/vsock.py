"""The guest link over vsock, as cloud-hypervisor offers it on the host: a unix socket with a greeting.

Source: docs/vsock.md of v53.0: `CONNECT PORT`, answered by a line that begins with OK.
"""

from __future__ import annotations

from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketStream

from ..errors import LinkError
from .base import GUEST_PORT
from .unix_socket import connected

_GREETING_MOST = 64
# As long as a link waits for a guest that has not answered yet; if it has answered before, the link gives up earlier.
_GREETING_S = 30.0
# More than the connections that a saved guest probably had: the link keeps 32, and some calls may have been running.
_TRIES = 128
_PATIENCE_S = 0.1
_RETRY_S = 0.002


async def connect_vsock(socket: Path) -> ByteStream:
    """Connect to the agent.

    A restored guest keeps the connections that were open when it was saved until its agent closes them, but the
    hypervisor numbers its ports from the start again. So the guest may take a new connection for an old one and refuse
    it or, with v51, not answer for two seconds. Each attempt has its own port, so if one is not answered soon, another
    starts in parallel, and the first to be accepted is used.

    Args:
        socket: The machine's socket for vsock.

    Raises:
        LinkError: Nobody listens there: the hypervisor has ended, or the agent is not up yet.
    """
    accepted: list[ByteStream] = []
    broken: list[LinkError] = []
    try:
        with anyio.move_on_after(_GREETING_S):
            async with anyio.create_task_group() as calls:

                async def call(answered: anyio.Event) -> None:
                    try:
                        stream = await _greeted(socket)
                    except LinkError as error:
                        broken.append(error)
                        calls.cancel_scope.cancel()
                        return
                    answered.set()
                    if stream is not None:
                        accepted.append(stream)
                        calls.cancel_scope.cancel()

                for _ in range(_TRIES):
                    answered = anyio.Event()
                    calls.start_soon(call, answered)
                    with anyio.move_on_after(_PATIENCE_S):
                        await answered.wait()
                        await anyio.sleep(_RETRY_S)
        if accepted:
            return accepted.pop(0)
        if broken:
            raise broken[0]
        raise LinkError("The guest's agent does not listen")
    finally:
        for stream in accepted:
            await anyio.aclose_forcefully(stream)


async def _greeted(socket: Path) -> ByteStream | None:
    try:
        # Not a stream of unix sockets: if that is cancelled while its answer arrives, the event loop logs an error.
        stream = await SocketStream.from_socket(await connected(socket))
    except OSError as error:
        raise LinkError("The sandbox's control socket is closed: its virtual machine has ended") from error
    accepted = False
    try:
        await stream.send(f"CONNECT {GUEST_PORT}\n".encode())
        accepted = await _accepted(stream)
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        return None
    finally:
        if not accepted:
            await anyio.aclose_forcefully(stream)
    return stream if accepted else None


async def _accepted(stream: SocketStream) -> bool:
    """Read the answer to CONNECT, and nothing after it."""
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive(1)
        if len(line) > _GREETING_MOST:
            break
    return line.startswith(b"OK")
