"""Terminals over WebSockets: what is typed goes in, what the terminal shows comes out, raw, text or bytes both ways.

The end of the program closes the socket with code 1000 and the reason `exit:<code>`. With `?binary=true` the output
comes as bytes in place of text; with `?replay=false` it begins with what is new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import structlog
from pydantic import Field
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from auth.roles import Scope
from vmm.errors import CasemateError

from .body import WireModel, parse_query
from .endpoint import NOBODY, admit
from .errors import refusal_of
from .relay import Relay, close_reason
from .terminals import terminal_of

if TYPE_CHECKING:
    from auth.principal import Principal
    from vmm.fleet import Fleet

    from .terminals import ViewerCount

_CLOSE_S = 20
_MAX_SIDE = 1000
_POLICY_VIOLATION, _INTERNAL_ERROR = 1008, 1011
_log = structlog.stdlib.get_logger("casemate.rest")


class SocketRequest(WireModel):
    """How a terminal is to be shown."""

    cols: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    rows: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    binary: bool = False
    replay: bool = True


class SocketRoutes:
    """The two sockets: an ephemeral shell, and a session that outlives them."""

    def __init__(self, fleet: Fleet, attendance: ViewerCount) -> None:
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
        wish = parse_query(socket, SocketRequest)
        owner = who.org_id
        sandbox = await self._fleet.sandboxes.get(owner, socket.path_params["id"])
        info = await self._fleet.guest.terminal_open(owner, sandbox.id, cols=wish.cols or 80, rows=wish.rows or 24)
        try:
            await socket.accept()
            with self._attendance.at(sandbox.id, info.terminal_id):
                await Relay(self._fleet, owner, sandbox.id, info.terminal_id, socket, binary=wish.binary).run(0)
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._close(owner, sandbox.id, info.terminal_id)

    async def _serve_session(self, socket: WebSocket, who: Principal) -> None:
        """A terminal that lives on without the socket."""
        wish = parse_query(socket, SocketRequest)
        owner, terminal_id = who.org_id, terminal_of(socket)
        sandbox = await self._fleet.sandboxes.get(owner, socket.path_params["id"])
        info = (await self._fleet.guest.terminal_read(owner, sandbox.id, terminal_id, max_bytes=1)).info
        if info.alive and (wish.cols or wish.rows):
            cols, rows = wish.cols or info.cols, wish.rows or info.rows
            await self._fleet.guest.terminal_resize(owner, sandbox.id, terminal_id, cols=cols, rows=rows)
        await socket.accept()
        with self._attendance.at(sandbox.id, terminal_id):
            relay = Relay(self._fleet, owner, sandbox.id, terminal_id, socket, binary=wish.binary)
            await relay.run(0 if wish.replay else info.output_total)

    async def _close(self, owner: str, sandbox_id: str, terminal_id: str) -> None:
        try:
            await self._fleet.guest.terminal_close(owner, sandbox_id, terminal_id)
        except CasemateError as error:
            # The sandbox went first, and the shell with it.
            _log.info("terminal not closed", sandbox=sandbox_id, reason=error.message)


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
            await socket.close(_INTERNAL_ERROR, close_reason(refusal.error))
        elif "websocket.http.response" in socket.scope.get("extensions", {}):
            await socket.send_denial_response(refusal.answer())
        else:
            await socket.close(_POLICY_VIOLATION, close_reason(refusal.error))
