"""Terminals over WebSockets: what is typed goes in, what the terminal shows comes out, raw, text or bytes both ways.

The end of the program closes the socket with code 1000 and the reason `exit:<code>`. With `?binary=true` the output
comes as bytes in place of text; with `?replay=false` it begins with what is new.
"""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import structlog
from pydantic import Field
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from auth.roles import Scope
from vmm.agent.frames import MAX_INPUT
from vmm.errors import CasemateError, GuestError, ProcessMissing

from .body import WireModel, parse_query
from .endpoint import NOBODY, admit
from .errors import refusal_of
from .screen_text import from_offset
from .terminals import terminal_of

if TYPE_CHECKING:
    from auth.principal import Principal
    from vmm.fleet import Fleet

    from .terminals import Attendance

_READ = 64 * 1024
_WAIT_MS = 20_000
_SEND_S = 60
_CLOSE_S = 20
_RETRY_S = 0.25
_TRIES = 120
_MAX_SIDE = 1000
_NORMAL, _POLICY_VIOLATION, _INTERNAL_ERROR, _TRY_AGAIN = 1000, 1008, 1011, 1013
_log = structlog.stdlib.get_logger("casemate.rest")


class SocketWish(WireModel):
    """How a terminal is to be shown."""

    cols: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    rows: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    binary: bool = False
    replay: bool = True


class SocketRoutes:
    """The two sockets: an ephemeral shell, and a session that outlives them."""

    def __init__(self, fleet: Fleet, attendance: Attendance) -> None:
        self._fleet = fleet
        self._attendance = attendance

    def routes(self) -> list[WebSocketRoute]:
        """The routes of this module."""
        base = "/api/sandboxes/{id}/pty"
        return [
            WebSocketRoute(base, self._shell),
            WebSocketRoute(f"{base}/sessions/{{session}}", self._session),
        ]

    async def _shell(self, socket: WebSocket) -> None:
        await _admitted(socket, "terminal.shell", self._serve_shell)

    async def _session(self, socket: WebSocket) -> None:
        await _admitted(socket, "terminal.attach", self._serve_session)

    async def _serve_shell(self, socket: WebSocket, who: Principal) -> None:
        """A shell that ends with its socket."""
        wish = parse_query(socket, SocketWish)
        owner = who.org_id
        sandbox = await self._fleet.get(owner, socket.path_params["id"])
        info = await self._fleet.terminal_open(owner, sandbox.id, cols=wish.cols or 80, rows=wish.rows or 24)
        try:
            await socket.accept()
            with self._attendance.at(sandbox.id, info.terminal_id):
                await Relay(self._fleet, owner, sandbox.id, info.terminal_id, socket, binary=wish.binary).run(0)
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._close(owner, sandbox.id, info.terminal_id)

    async def _serve_session(self, socket: WebSocket, who: Principal) -> None:
        """A terminal that lives on without the socket."""
        wish = parse_query(socket, SocketWish)
        owner, terminal_id = who.org_id, terminal_of(socket)
        sandbox = await self._fleet.get(owner, socket.path_params["id"])
        info = (await self._fleet.terminal_read(owner, sandbox.id, terminal_id, max_bytes=1)).info
        if info.alive and (wish.cols or wish.rows):
            cols, rows = wish.cols or info.cols, wish.rows or info.rows
            await self._fleet.terminal_resize(owner, sandbox.id, terminal_id, cols=cols, rows=rows)
        await socket.accept()
        with self._attendance.at(sandbox.id, terminal_id):
            relay = Relay(self._fleet, owner, sandbox.id, terminal_id, socket, binary=wish.binary)
            await relay.run(0 if wish.replay else info.output_total)

    async def _close(self, owner: str, sandbox_id: str, terminal_id: str) -> None:
        try:
            await self._fleet.terminal_close(owner, sandbox_id, terminal_id)
        except CasemateError as error:
            # The sandbox went first, and the shell with it.
            _log.info("terminal not closed", sandbox=sandbox_id, reason=error.message)


class Relay:
    """Between one socket and one terminal.

    Args:
        fleet: Where the terminal is.
        owner: Whose sandbox it is.
        sandbox_id: The sandbox's id.
        terminal_id: The terminal.
        socket: Accepted.
        binary: Whether the output goes as bytes.
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
        """Relay from an offset of the output on, until the program ends or the client goes away."""
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
            await self._socket.close(code, _reason(reason))

    async def _output(self, offset: int) -> tuple[int, str]:
        """Send what the terminal shows; how to close when its program has ended."""
        while True:
            try:
                found = await self._fleet.terminal_read(
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
        """Type what the client sends, until it goes away."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text: str | None = message.get("text")
            data: bytes = message.get("bytes") or b"" if text is None else text.encode()
            for start in range(0, len(data), MAX_INPUT):
                await self._type(data[start : start + MAX_INPUT])

    async def _type(self, data: bytes) -> None:
        """Type, waiting for a program that does not read; what an ended one is sent is nobody's."""
        for _ in range(_TRIES):
            try:
                await self._fleet.terminal_input(*self._terminal, data)
            except ProcessMissing:
                return
            except GuestError:
                if not (await self._fleet.terminal_read(*self._terminal, max_bytes=1)).info.alive:
                    return
                await anyio.sleep(_RETRY_S)
            else:
                return
        raise GuestError("The program in the terminal does not read what is typed")


async def _admitted(socket: WebSocket, action: str, serve: Callable[[WebSocket, Principal], Awaitable[None]]) -> None:
    """Serve a socket whose credential may run things; refuse it before the handshake where it cannot be served."""
    state = socket.scope.setdefault("state", {})
    state["action"] = action
    state["sandbox"] = socket.path_params["id"]
    who: Principal = state.get("principal", NOBODY)
    try:
        admit(who, Scope.RUN)
        await serve(socket, who)
    except WebSocketDisconnect:
        return
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        state["refusal"] = refusal.error
        if socket.application_state is not WebSocketState.CONNECTING:
            await socket.close(_INTERNAL_ERROR, _reason(refusal.error))
        elif "websocket.http.response" in socket.scope.get("extensions", {}):
            await socket.send_denial_response(refusal.answer())
        else:
            await socket.close(_POLICY_VIOLATION, _reason(refusal.error))


def _reason(text: str) -> str:
    """A reason as a close frame can carry it: at most 123 bytes."""
    return text.encode()[:120].decode("utf-8", "ignore")
