"""Watching files: a session over REST, whose events a WebSocket sends as JSON, one object a message.

The session ends soon after its socket. When there is nothing to watch any more, the socket is closed with code 1000 and
why; when the watch fails, the last message has `error`, and the code is 1011.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from starlette.websockets import WebSocketDisconnect

from auth.roles import Scope
from mcp_server.wire import timestamp
from storage.shown import shown
from vmm.calls.watch import Wanted
from vmm.errors import LinkError, NotFound

from .body import WireModel, parse_body
from .contract import GUEST, JSON, Media, contract
from .endpoint import Endpoint, SocketEndpoint
from .envelope import success
from .paths import GuestPath
from .relay import close_reason
from .shapes.envelope import Enveloped
from .shapes.watch import FileEventObject, NewWatch

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from auth.principal import Principal
    from vmm.calls.watch import Watch
    from vmm.fleet import Fleet
    from vmm.guest.watches import FileEvent

_SEND_S = 60
_NORMAL, _INTERNAL_ERROR = 1000, 1011
_UNREACHABLE = "Failed to connect to watch session"
_EVENTS = Media(
    type=JSON,
    description="What happens to files, an object a message; what the client sends is ignored.",
    part=FileEventObject,
)


class WatchRequest(WireModel):
    """What to watch: a directory or a file."""

    path: GuestPath
    recursive: bool = False
    ignore_hidden: bool = True


class WatchRoutes:
    """The route that begins a watch, and the socket that follows it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        path = "/api/sandboxes/{id}/files/watch"
        return [Endpoint(method="POST", path=path, handler=self.create, scope=Scope.READ, action="file.watch")]

    def sockets(self) -> list[SocketEndpoint]:
        """List the WebSockets of this module."""
        path = "/api/sandboxes/{id}/files/watch/{watch}/stream"
        return [SocketEndpoint(path=path, handler=self.stream, scope=Scope.READ, action="file.watch_stream")]

    @contract(Enveloped[NewWatch], body=WatchRequest, refusals=GUEST)
    async def create(self, request: Request, who: Principal) -> Response:
        """Begin to watch a path. Nothing that happens from now on is missed; the events come over the WebSocket."""
        body = await parse_body(request, WatchRequest)
        wanted = Wanted(path=body.path, recursive=body.recursive, ignore_hidden=body.ignore_hidden)
        watch_id = await self._fleet.watches.open(who.org_id, request.path_params["id"], wanted)
        return success("watch started", {"sessionId": watch_id})

    @contract(_EVENTS, status=101)
    async def stream(self, socket: WebSocket, who: Principal) -> None:
        """Send the events of a watch. It ends with the socket; for a minute a socket may come back to it."""
        async with self._fleet.watches.claim(who.org_id, socket.path_params["id"], _watch_of(socket)) as watch:
            await socket.accept()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_left, socket, tasks.cancel_scope)
                with suppress(TimeoutError, WebSocketDisconnect):  # The client has stopped reading, or has gone.
                    await _relay(watch, socket)
                tasks.cancel_scope.cancel()


def event_object(event: FileEvent) -> FileEventObject:
    """Convert an event to VoidRun's form, with two fields more: `isDir`, and `reason` where there is one."""
    found: FileEventObject = {
        "type": event.type,
        "path": event.path,
        "timestamp": timestamp(event.time_ms),
    }
    if event.type != "overflow":
        found["isDir"] = event.directory
    if event.old_path:
        found["oldPath"] = event.old_path
    if event.size is not None:
        found["size"] = event.size
    if event.reason:
        found["reason"] = event.reason
    return found


async def _until_left(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """Drop what a client sends, until it leaves."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


async def _relay(watch: Watch, socket: WebSocket) -> None:
    """Send events until there are no more, and close the socket with the reason."""
    while events := await watch.events.take():
        for event in events:
            await _send(socket, event_object(event))
    failure = watch.events.failure
    if failure is None:
        await socket.close(_NORMAL, close_reason(watch.events.ended))
        return
    error = _UNREACHABLE if isinstance(failure, LinkError) else failure.message
    details = {"details": str(failure)} if error != str(failure) else {}
    await _send(socket, {"error": error, **details})
    await socket.close(_INTERNAL_ERROR, close_reason(error))


async def _send(socket: WebSocket, message: FileEventObject | dict[str, str]) -> None:
    with anyio.fail_after(_SEND_S):
        await socket.send_text(json.dumps(message))


def _watch_of(socket: WebSocket) -> str:
    given: str = socket.path_params["watch"]
    try:
        return str(uuid.UUID(given))
    except ValueError:
        raise NotFound(f"There is no watch {shown(given)}", hint="Its id is a UUID") from None
