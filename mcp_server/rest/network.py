"""Where a sandbox may connect to, and where it did, over REST. Nothing here wakes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
from pydantic import Field

from auth.roles import Scope
from mcp_server.shapes import NetworkEventObject
from mcp_server.wire import event_object
from vmm.errors import NotFound
from vmm.network.log import NetworkEvent

from .body import WireModel, parse_query
from .contract import Media, contract
from .endpoint import Endpoint
from .envelope import success
from .shapes.envelope import Enveloped
from .shapes.sandboxes import NetworkObject
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.sandboxes.sandbox import Sandbox

    from .streaming import Answer

_HEADERS = {
    "content-type": "application/x-ndjson; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_LINES = Media(type="application/x-ndjson", description="With `follow`, an event a line.", part=NetworkEventObject)
_KEEP_ALIVE_S = 15
_WAITING = 64


class LogQuery(WireModel):
    """Which events: those after a number; and whether the answer goes on with further ones."""

    after: int = Field(default=0, ge=0, le=2**53)
    follow: bool = False


class NetworkRoutes:
    """The routes for the network of a sandbox."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}/network"
        return [
            Endpoint(method="GET", path=base, handler=self.get, scope=Scope.READ, action="network.get"),
            Endpoint(method="GET", path=f"{base}/log", handler=self.log, scope=Scope.READ, action="network.log"),
        ]

    @contract(Enveloped[NetworkObject])
    async def get(self, request: Request, who: Principal) -> Response:
        """Return the policy in force, and the smallest one that would have allowed what was allowed."""
        network = await self._fleet.network.get(who.org_id, request.path_params["id"])
        data: NetworkObject = {
            "policy": network.policy.text(),
            "own": network.own,
            "way": network.way,
            "allowed": network.log.allowed,
            "refused": network.log.refused,
            "suggestion": await network.log.suggestion(),
        }
        if network.address:
            data["address"] = str(network.address)
        return success("Network fetched", data)

    @contract(Enveloped[list[NetworkEventObject]], _LINES, query=LogQuery)
    async def log(self, request: Request, who: Principal) -> Response:
        """Return the last connections, or stream them as lines of JSON; a blank line now and then is a sign of life."""
        wanted = parse_query(request, LogQuery)
        sandbox = await self._fleet.sandboxes.get(who.org_id, request.path_params["id"])
        network = self._fleet.network.of(sandbox)
        if not wanted.follow:
            found = network.log.since(wanted.after)
            return success("Network log fetched", [event_object(event) for event in found])
        events = network.log.follow(wanted.after)

        async def serve(receive: Receive, answer: Answer) -> None:
            async with while_connected(receive):
                await self._stream(events, answer, sandbox)

        return Streamed(serve)

    async def _stream(self, events: AsyncIterator[NetworkEvent], answer: Answer, sandbox: Sandbox) -> None:
        """Send events until the sandbox is deleted."""
        await answer.begin(200, _HEADERS)
        sender, receiver = anyio.create_memory_object_stream[NetworkEvent](_WAITING)

        async def pump() -> None:
            async for event in events:
                await sender.send(event)

        async with anyio.create_task_group() as tasks, sender, receiver:
            tasks.start_soon(pump)
            while True:
                event: NetworkEvent | None = None
                with anyio.move_on_after(_KEEP_ALIVE_S):
                    event = await receiver.receive()
                if event is None and not await self._exists(sandbox):
                    break
                await answer.write(f"{json.dumps(event_object(event)) if event else ''}\n".encode())
            tasks.cancel_scope.cancel()

    async def _exists(self, sandbox: Sandbox) -> bool:
        try:
            await self._fleet.sandboxes.get(sandbox.owner, sandbox.id)
        except NotFound:
            return False
        return True
