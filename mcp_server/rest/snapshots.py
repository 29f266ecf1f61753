"""Snapshots and forks over REST: take, list, look at, rename, delete, put a sandbox back, make copies of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.wire import fork_objects, sandbox_object, snapshot_object
from vmm.errors import InvalidInput

from .body import WireModel, parse_body
from .endpoint import Endpoint
from .envelope import success
from .paging import asked_page
from .sandboxes import Amount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.machines.snapshots import Snapshot


class SnapshotRequest(WireModel):
    """A snapshot to take."""

    name: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])


class RenameRequest(WireModel):
    """Another name for a snapshot."""

    model_config = ConfigDict(extra="forbid")

    name: str


class RestoreRequest(WireModel):
    """What to put a sandbox back to: a snapshot's name, its id, or the beginning of that."""

    snapshot: str


class ForkRequest(WireModel):
    """How many copies to make."""

    count: Amount = 1


class SnapshotRoutes:
    """The routes about snapshots and forks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        of_box, all_, one = "/api/sandboxes/{id}/snapshots", "/api/snapshots", "/api/snapshots/{snapshot}"
        box = "/api/sandboxes/{id}"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="GET", path=of_box, handler=self.list_of_one, scope=read, action="snapshot.list"),
            Endpoint(method="POST", path=of_box, handler=self.create, scope=run, action="snapshot.create"),
            Endpoint(method="POST", path=f"{box}/restore", handler=self.restore, scope=run, action="snapshot.restore"),
            Endpoint(method="POST", path=f"{box}/fork", handler=self.fork, scope=run, action="sandbox.fork"),
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="snapshot.list"),
            Endpoint(method="GET", path=one, handler=self.get, scope=read, action="snapshot.get"),
            Endpoint(method="PATCH", path=one, handler=self.rename, scope=run, action="snapshot.rename"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="snapshot.delete"),
        ]

    async def create(self, request: Request, who: Principal) -> Response:
        """Save a sandbox, which runs on, or sleeps on."""
        wish = await parse_body(request, SnapshotRequest)
        snapshot = await self._fleet.snapshots.take(
            who.org_id,
            request.path_params["id"],
            name=wish.name.strip(),
            labels=wish.labels,
            created_by=who.user_id,
        )
        return success("Snapshot created", snapshot_object(snapshot), status=201)

    async def list(self, request: Request, who: Principal) -> Response:
        """The owner's snapshots, newest first, by pages."""
        return _listed(request, await self._fleet.snapshots.list(who.org_id))

    async def list_of_one(self, request: Request, who: Principal) -> Response:
        """Those of one sandbox."""
        return _listed(request, await self._fleet.snapshots.list(who.org_id, sandbox=request.path_params["id"]))

    async def get(self, request: Request, who: Principal) -> Response:
        """One snapshot."""
        return success("Snapshot fetched", snapshot_object(await self._found(request, who)))

    async def rename(self, request: Request, who: Principal) -> Response:
        """Give a snapshot another name."""
        wish = await parse_body(request, RenameRequest)
        found = await self._found(request, who)
        renamed = await self._fleet.snapshots.rename(who.org_id, found.id, wish.name.strip())
        return success("Snapshot updated", snapshot_object(renamed))

    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a snapshot of which no other snapshot or sandbox was made."""
        found = await self._found(request, who)
        await self._fleet.snapshots.delete(who.org_id, found.id)
        return success("Snapshot deleted")

    async def restore(self, request: Request, who: Principal) -> Response:
        """Put a sandbox back to a snapshot; what it did since then is lost."""
        wish = await parse_body(request, RestoreRequest)
        if not wish.snapshot.strip():
            raise InvalidInput("snapshot is required", hint="Give a snapshot's name or id")
        sandbox = await self._fleet.snapshots.restore(who.org_id, request.path_params["id"], wish.snapshot.strip())
        return success("Sandbox restored to the snapshot", sandbox_object(sandbox))

    async def fork(self, request: Request, who: Principal) -> Response:
        """Make copies of a running sandbox; where some did not come about, the answer says so in their places."""
        wish = await parse_body(request, ForkRequest)
        forks = await self._fleet.snapshots.fork(
            who.org_id, request.path_params["id"], wish.count, created_by=who.user_id
        )
        return success("Sandbox forked", fork_objects(forks), status=201)

    async def _found(self, request: Request, who: Principal) -> Snapshot:
        snapshot = await self._fleet.snapshots.get(who.org_id, request.path_params["snapshot"])
        annotate_call(sandbox=snapshot.sandbox)
        return snapshot


def _listed(request: Request, found: Sequence[Snapshot]) -> Response:
    page = asked_page(request)
    rows = [snapshot_object(snapshot) for snapshot in found[page.rows]]
    return success("Snapshots fetched", rows, meta=page.meta(len(found)))
