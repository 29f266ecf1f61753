"""Standard input for a command that runs in a sandbox: in bursts, each one request for as long as more keeps coming."""

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
"""A source that is silent for so long may be for hours: the request ends, and the next input is another one."""
_BURST = 64 * 1024 * 1024


async def send_stdin(remote: Remote, ref: str, pid: int) -> None:
    """Send what comes in until its end, or until the command reads no more.

    Raises:
        CliError: The server did not take it.
    """
    sender, receiver = anyio.create_memory_object_stream[bytes]()
    failures: list[CliError] = []
    async with anyio.create_task_group() as tasks, receiver:
        tasks.start_soon(_read, sender)
        try:
            await _Feeder(remote, ref, pid, receiver).run()
        except CliError as error:  # Raised again outside of the group that would wrap it.
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures and not isinstance(failures[0], Missing):  # It has ended, and is forgotten already.
        raise failures[0]


async def _read(sender: MemoryObjectSendStream[bytes]) -> None:
    async with sender:
        async for piece in standard_input():
            await sender.send(piece)


class _Feeder:
    """Sends bursts."""

    def __init__(self, remote: Remote, ref: str, pid: int, receiver: MemoryObjectReceiveStream[bytes]) -> None:
        self._remote = remote
        self._path = route("sandboxes", ref, "commands", "stdin")
        self._pid = pid
        self._receiver = receiver
        self._over = False

    async def run(self) -> None:
        while not self._over:
            first = await self._next()
            if first and not await self._send(self._burst(first), eof=False):
                return
        await self._send(_nothing(), eof=True)

    async def _next(self) -> bytes:
        """What comes next; nothing at the end."""
        try:
            return await self._receiver.receive()
        except anyio.EndOfStream:
            self._over = True
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
        """Send one request; whether the command would read more."""
        query = {"pid": self._pid, "eof": "true" if eof else "false"}
        headers = {"Content-Type": "application/octet-stream"}
        call = self._remote.stream("POST", self._path, query=query, content=content, headers=headers, read_s=None)
        async with call as response:
            try:
                return bool(as_object(json.loads(await response.aread())).get("open"))
            except ValueError:
                raise CliError(f"{self._remote.url} does not say whether the command took its input") from None


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield b""
