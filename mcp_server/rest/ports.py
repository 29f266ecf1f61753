"""Published ports over REST, and raw TCP to any port of a sandbox through a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import anyio
from pydantic import ConfigDict, Field
from starlette.websockets import WebSocket, WebSocketDisconnect

from auth.roles import Scope
from mcp_server.shapes import PortObject, PublicUrl, SandboxObject
from mcp_server.wire import sandbox_object
from storage.shown import shown
from vmm.errors import CasemateError, InvalidInput
from vmm.sandboxes.published import check_port

from .body import WireModel, parse_body
from .contract import BYTES, GUEST, Media, contract
from .endpoint import Endpoint, SocketEndpoint
from .envelope import success
from .relay import close_reason
from .shapes.envelope import Done, Enveloped

if TYPE_CHECKING:
    from anyio.abc import ByteStream
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from mcp_server.ports.published import PublishedPorts
    from vmm.fleet import Fleet

_PIECE = 64 * 1024
_STALLED_S = 3600
_INTERNAL_ERROR = 1011

Amount = Annotated[int, Field(gt=-(2**31), lt=2**31)]
"""An integer whose range is checked where its meaning is known."""


class PublishRequest(WireModel):
    """A port to publish; `expires` is in seconds, 0 is a day for a private one and never for a public one."""

    port: Amount
    public: bool = False
    expires: Amount = 0


class PublishedList(WireModel):
    """All ports of a sandbox that are to be published; none ends all publications."""

    model_config = ConfigDict(extra="forbid")

    publish_ports: list[Amount]


_URLS = Enveloped[list[PublicUrl]]


class PortRoutes:
    """The routes for ports."""

    def __init__(self, fleet: Fleet, ports: PublishedPorts) -> None:
        self._fleet = fleet
        self._ports = ports

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        box = "/api/sandboxes/{id}"
        all_, listed, urls = f"{box}/ports", f"{box}/publish-ports", f"{box}/public-urls"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="port.list"),
            Endpoint(method="POST", path=all_, handler=self.publish, scope=run, action="port.publish"),
            Endpoint(method="DELETE", path=f"{all_}/{{port}}", handler=self.revoke, scope=run, action="port.unpublish"),
            Endpoint(method="PATCH", path=listed, handler=self.publish_only, scope=run, action="port.replace"),
            # They open ports, for which a key needs the scope run.
            Endpoint(method="GET", path=urls, handler=self.urls, scope=run, action="port.urls"),
        ]

    def sockets(self) -> list[SocketEndpoint]:
        """List the WebSockets of this module."""
        path = "/api/sandboxes/{id}/forward/{port}"
        return [SocketEndpoint(path=path, handler=self.forward, scope=Scope.RUN, action="port.forward")]

    @contract(Enveloped[PortObject], status=201, body=PublishRequest, refusals=GUEST, yields={"port": "/data/port"})
    async def publish(self, request: Request, who: Principal) -> Response:
        """Publish a port."""
        wanted = await parse_body(request, PublishRequest)
        made = await self._ports.publish(
            who.org_id, request.path_params["id"], wanted.port, public=wanted.public, expires_s=wanted.expires
        )
        return success("Port published", made, status=201)

    @contract(Enveloped[list[PortObject]])
    async def list(self, request: Request, who: Principal) -> Response:
        """List the published ports of a sandbox."""
        sandbox = await self._fleet.sandboxes.get(who.org_id, request.path_params["id"])
        return success("Ports fetched", self._ports.of(sandbox))

    @contract(Enveloped[SandboxObject], body=PublishedList, refusals=GUEST)
    async def publish_only(self, request: Request, who: Principal) -> Response:
        """Publish these ports and no others."""
        wanted = await parse_body(request, PublishedList)
        sandbox = await self._ports.publish_only(who.org_id, request.path_params["id"], wanted.publish_ports)
        return success("Publish ports updated", sandbox_object(sandbox))

    @contract(_URLS, refusals=GUEST)
    async def urls(self, request: Request, who: Principal) -> Response:
        """Return URLs that open the published ports in a browser; those of private ones are signed."""
        sandbox = await self._fleet.sandboxes.get(who.org_id, request.path_params["id"])
        return success("Public URLs fetched", self._ports.openable(sandbox))

    @contract(Done, refusals=GUEST)
    async def revoke(self, request: Request, who: Principal) -> Response:
        """Publish a port no longer."""
        await self._ports.unpublish(who.org_id, request.path_params["id"], _port(request.path_params["port"]))
        return success("Port unpublished")

    @contract(Media(type=BYTES, description="The bytes of the connection."), status=101)
    async def forward(self, socket: WebSocket, who: Principal) -> None:
        """Connect a WebSocket to a TCP port: binary messages are its bytes, an empty one is the end of a direction."""
        port = _port(socket.path_params["port"])
        sandbox = await self._fleet.sandboxes.get(who.org_id, socket.path_params["id"])
        async with self._ports.dial(who.org_id, sandbox.id, port) as stream:
            await socket.accept()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_to_guest, socket, stream, tasks.cancel_scope)
                    await _from_guest(socket, stream)
            except* WebSocketDisconnect:
                pass  # The client has left.
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError, CasemateError, TimeoutError) as errors:
                error = next(iter(errors.exceptions))
                await socket.close(_INTERNAL_ERROR, close_reason(str(error) or "the connection broke"))


async def _to_guest(socket: WebSocket, stream: ByteStream, whole: anyio.CancelScope) -> None:
    """Send what the client sends; its end ends one direction, its leaving everything."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            whole.cancel()
            return
        data: bytes = message.get("bytes") or (message.get("text") or "").encode()
        # A guest that never reads again must not keep the connection of a client that has left.
        with anyio.fail_after(_STALLED_S):
            if data:
                await stream.send(data)
            else:
                await stream.send_eof()


async def _from_guest(socket: WebSocket, stream: ByteStream) -> None:
    """Send what the guest sends, until it ends."""
    try:
        while True:
            await socket.send_bytes(await stream.receive(_PIECE))
    except anyio.EndOfStream:
        await socket.send_bytes(b"")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise InvalidInput(f"port must be from 1 to 65535, got {shown(text)}")
    return check_port(int(text))
