"""Standard input for a command in a sandbox: sent in bursts, each one request that lasts while input keeps coming."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio

from .console import CliError
from .errors import Missing
from .local_tree import standard_input
from .remote import Remote, route
from .values import as_object

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

_PAUSE_S = 1
"""End the request after this much silence: the input may be idle for hours, and later input starts a new request."""
_BURST = 64 * 1024 * 1024


async def send_stdin(remote: Remote, ref: str, pid: int) -> None:
    """Send standard input until it ends or the command stops reading.

    Raises:
        CliError: The server did not accept the input.
    """
    sender, receiver = anyio.create_memory_object_stream[bytes]()
    failures: list[CliError] = []
    async with anyio.create_task_group() as tasks, receiver:
        tasks.start_soon(_read, sender)
        try:
            await _StdinSender(remote, ref, pid, receiver).run()
        except CliError as error:  # Raised again below, because the task group would wrap it.
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures and not isinstance(failures[0], Missing):  # The command ended and its record is gone.
        raise failures[0]


async def _read(sender: MemoryObjectSendStream[bytes]) -> None:
    async with sender:
        async for piece in standard_input():
            await sender.send(piece)


class _StdinSender:
    """Sends input in bursts."""

    def __init__(self, remote: Remote, ref: str, pid: int, receiver: MemoryObjectReceiveStream[bytes]) -> None:
        self._remote = remote
        self._path = route("sandboxes", ref, "commands", "stdin")
        self._pid = pid
        self._receiver = receiver
        self._ended = False

    async def run(self) -> None:
        while not self._ended:
            first = await self._next()
            if first and not await self._send(self._burst(first), eof=False):
                return
        await self._send(_empty(), eof=True)

    async def _next(self) -> bytes:
        """Return the next piece of input; empty at its end."""
        try:
            return await self._receiver.receive()
        except anyio.EndOfStream:
            self._ended = True
            return b""

    async def _burst(self, piece: bytes) -> AsyncGenerator[bytes]:
        sent = 0
        while piece:
            yield piece
            sent += len(piece)
            piece = b""
            if sent < _BURST:
                with anyio.move_on_after(_PAUSE_S):
                    piece = await self._next()

    async def _send(self, content: AsyncGenerator[bytes], *, eof: bool) -> bool:
        """Send one request and return whether the command still reads."""
        query = {"pid": self._pid, "eof": "true" if eof else "false"}
        headers = {"Content-Type": "application/octet-stream"}
        call = self._remote.stream("POST", self._path, query=query, content=content, headers=headers, read_s=None)
        async with call as response:
            try:
                return bool(as_object(json.loads(await response.aread())).get("open"))
            except ValueError:
                raise CliError(f"{self._remote.url} did not confirm that the command received its input") from None


async def _empty() -> AsyncGenerator[bytes]:
    return
    yield b""
