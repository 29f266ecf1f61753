"""Terminals over WebSockets: clients send input and receive raw output, both as text or bytes.

The end of the program closes the socket with code 1000 and the reason `exit:<code>`. With `?binary=true` the output
arrives as bytes instead of text; with `?replay=false` earlier output is left out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import structlog
from pydantic import Field
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from auth.roles import Scope
from vmm.errors import CasemateError

from .body import WireModel, parse_query
from .contract import Media, contract
from .endpoint import NOBODY, SocketEndpoint, admit
from .errors import refusal_of
from .relay import Relay, close_reason
from .terminals import prompted, terminal_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auth.principal import Principal
    from vmm.fleet import Fleet

    from .terminals import ViewerCount

_CLOSE_S = 20
_MAX_SIDE = 1000
_SCREEN = Media(
    type="text/plain",
    description="What the terminal shows, and what is typed, as text. With `binary` it shows bytes. The close reason "
    "is `exit:<code>` when its program has ended.",
)
_POLICY_VIOLATION, _INTERNAL_ERROR = 1008, 1011
_log = structlog.stdlib.get_logger("casemate.rest")


class SocketRequest(WireModel):
    """The size of the terminal, and how to send its output."""

    cols: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    rows: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    binary: bool = False
    replay: bool = True


class SocketRoutes:
    """The two sockets: a shell that ends with its socket, and a session that outlives it."""

    def __init__(self, fleet: Fleet, viewers: ViewerCount) -> None:
        self._fleet = fleet
        self._viewers = viewers

    def sockets(self) -> list[SocketEndpoint]:
        """List the WebSockets of this module."""
        base, one = "/api/sandboxes/{id}/pty", "/api/sandboxes/{id}/pty/sessions/{session}"
        return [
            SocketEndpoint(path=base, handler=self.shell, scope=Scope.RUN, action="terminal.shell"),
            SocketEndpoint(path=one, handler=self.session, scope=Scope.RUN, action="terminal.attach"),
        ]

    @contract(_SCREEN, status=101, query=SocketRequest)
    async def shell(self, socket: WebSocket, who: Principal) -> None:
        """Serve a shell that ends with its socket."""
        wanted = parse_query(socket, SocketRequest)
        owner = who.org_id
        sandbox = await self._fleet.sandboxes.get(owner, socket.path_params["id"])
        info = await self._fleet.guest.terminal_open(owner, sandbox.id, cols=wanted.cols or 80, rows=wanted.rows or 24)
        try:
            await prompted(self._fleet, owner, sandbox.id, info.terminal_id)
            await socket.accept()
            with self._viewers.at(sandbox.id, info.terminal_id):
                await Relay(self._fleet, owner, sandbox.id, info.terminal_id, socket, binary=wanted.binary).run(0)
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._close(owner, sandbox.id, info.terminal_id)

    @contract(_SCREEN, status=101, query=SocketRequest)
    async def session(self, socket: WebSocket, who: Principal) -> None:
        """Attach to a terminal that outlives the socket."""
        wanted = parse_query(socket, SocketRequest)
        owner, terminal_id = who.org_id, terminal_of(socket)
        sandbox = await self._fleet.sandboxes.get(owner, socket.path_params["id"])
        info = (await self._fleet.guest.terminal_read(owner, sandbox.id, terminal_id, max_bytes=1)).info
        if info.alive and (wanted.cols or wanted.rows):
            cols, rows = wanted.cols or info.cols, wanted.rows or info.rows
            await self._fleet.guest.terminal_resize(owner, sandbox.id, terminal_id, cols=cols, rows=rows)
        await socket.accept()
        with self._viewers.at(sandbox.id, terminal_id):
            relay = Relay(self._fleet, owner, sandbox.id, terminal_id, socket, binary=wanted.binary)
            await relay.run(0 if wanted.replay else info.output_total)

    async def _close(self, owner: str, sandbox_id: str, terminal_id: str) -> None:
        try:
            await self._fleet.guest.terminal_close(owner, sandbox_id, terminal_id)
        except CasemateError as error:
            # The sandbox has ended already, and the shell with it.
            _log.info("terminal not closed", sandbox=sandbox_id, reason=error.message)


def socket_routes(sockets: Iterable[SocketEndpoint]) -> list[WebSocketRoute]:
    """Build the routes of WebSockets."""
    return [WebSocketRoute(one.path, partial(_serve, one)) for one in sockets]


async def _serve(endpoint: SocketEndpoint, socket: WebSocket) -> None:
    """Serve a socket whose credential has the scope; errors are sent before the handshake where possible."""
    state = socket.scope.setdefault("state", {})
    state["action"] = endpoint.action
    state["sandbox"] = socket.path_params["id"]
    who: Principal = state.get("principal", NOBODY)
    try:
        admit(who, endpoint.scope)
        await endpoint.handler(socket, who)
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
