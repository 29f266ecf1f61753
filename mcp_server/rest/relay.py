"""Relays between a WebSocket and a terminal: input in one direction, output in the other."""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
from starlette.websockets import WebSocketDisconnect

from vmm.agent.frames import MAX_INPUT
from vmm.errors import CasemateError, GuestError, ProcessMissing

from .screen_text import from_offset

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from vmm.fleet import Fleet

_READ = 64 * 1024
_WAIT_MS = 20_000
_SEND_S = 60
_RETRY_S = 0.25
_TRIES = 120
_NORMAL, _POLICY_VIOLATION, _TRY_AGAIN = 1000, 1008, 1013


class Relay:
    """Relays between one socket and one terminal.

    Args:
        fleet: Runs the sandbox.
        owner: The sandbox's owner.
        sandbox_id: The sandbox's id.
        terminal_id: The terminal's id.
        socket: The WebSocket, already accepted.
        binary: Whether to send the output as bytes instead of text.
    """

    def __init__(
        self, fleet: Fleet, owner: str, sandbox_id: str, terminal_id: str, socket: WebSocket, *, binary: bool
    ) -> None:
        self._fleet = fleet
        self._terminal = (owner, sandbox_id, terminal_id)
        self._socket = socket
        self._binary = binary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def run(self, offset: int) -> None:
        """Relay, beginning at an offset of the output, until the program ends or the client disconnects."""
        closing: list[tuple[int, str]] = []
        async with anyio.create_task_group() as tasks:

            async def half(work: Callable[[], Awaitable[tuple[int, str] | None]]) -> None:
                try:
                    end = await work()
                except CasemateError as error:
                    end = (_TRY_AGAIN if error.retryable else _POLICY_VIOLATION, error.message)
                except (WebSocketDisconnect, TimeoutError):
                    end = None
                if end is not None:
                    closing.append(end)
                tasks.cancel_scope.cancel()

            tasks.start_soon(half, lambda: self._output(offset))
            tasks.start_soon(half, self._input)
        if closing:
            code, reason = closing[0]
            await self._socket.close(code, close_reason(reason))

    async def _output(self, offset: int) -> tuple[int, str]:
        """Send the terminal's output; return the code and reason to close with when its program has ended."""
        while True:
            try:
                found = await self._fleet.guest.terminal_read(
                    *self._terminal, offset=offset, max_bytes=_READ, wait_ms=_WAIT_MS
                )
            except ProcessMissing:
                return _NORMAL, "closed"
            output = found.output
            data = from_offset(output.offset, output.data) if output.offset > offset else output.data
            offset = output.next_offset
            if data:
                await self._show(data)
            elif not found.info.alive and offset >= found.info.output_total:
                return _NORMAL, f"exit:{found.info.exit_code}"

    async def _show(self, data: bytes) -> None:
        with anyio.fail_after(_SEND_S):
            if self._binary:
                await self._socket.send_bytes(data)
            elif text := self._decoder.decode(data):
                await self._socket.send_text(text)

    async def _input(self) -> None:
        """Type what the client sends, until it disconnects."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text: str | None = message.get("text")
            data: bytes = message.get("bytes") or b"" if text is None else text.encode()
            for start in range(0, len(data), MAX_INPUT):
                await self._type(data[start : start + MAX_INPUT])

    async def _type(self, data: bytes) -> None:
        """Type, waiting for a program that does not read; input for a program that has ended is dropped."""
        for _ in range(_TRIES):
            try:
                await self._fleet.guest.terminal_input(*self._terminal, data)
            except ProcessMissing:
                return
            except GuestError:
                if not (await self._fleet.guest.terminal_read(*self._terminal, max_bytes=1)).info.alive:
                    return
                await anyio.sleep(_RETRY_S)
            else:
                return
        raise GuestError("The program in the terminal does not read its input")


def close_reason(text: str) -> str:
    """Cut a reason to what a close frame can carry: at most 123 bytes."""
    return text.encode()[:120].decode("utf-8", "ignore")
