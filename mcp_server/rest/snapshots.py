"""Snapshots and forks over REST: take, list, get, rename and delete snapshots, restore and fork sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.shapes import ForkObject, SnapshotObject
from mcp_server.wire import fork_objects, sandbox_object, snapshot_object
from vmm.errors import InvalidInput

from .body import WireModel, checked, parse_body, parse_object, parse_query, read_body
from .contract import GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .paging import Page
from .sandboxes import Amount
from .shapes.envelope import Done, Enveloped, Paged
from .shapes.sandboxes import Restored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.machines.snapshots import Snapshot


_Forks = list[ForkObject]


class SnapshotRequest(WireModel):
    """A snapshot to take."""

    name: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])


class RenameRequest(WireModel):
    """A new name for a snapshot."""

    model_config = ConfigDict(extra="forbid")

    name: str


class RestoreRequest(WireModel):
    """The snapshot to restore: its name, its id, or the beginning of its id. Without a body, nothing is restored."""

    snapshot: str = ""


class ForkRequest(WireModel):
    """The number of copies, and what they get of the sandbox's volumes.

    `copy`: copies of those that it can write to, and the others themselves. `none`: nothing.
    """

    count: Amount = 1
    volumes: Literal["copy", "none"] = "copy"


class SnapshotRoutes:
    """The routes for snapshots and forks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
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

    @contract(
        Enveloped[SnapshotObject], status=201, body=SnapshotRequest, refusals=GUEST, yields={"snapshot": "/data/id"}
    )
    async def create(self, request: Request, who: Principal) -> Response:
        """Take a snapshot of a sandbox, which keeps running, or keeps sleeping."""
        wanted = await parse_body(request, SnapshotRequest)
        snapshot = await self._fleet.snapshots.take(
            who.org_id,
            request.path_params["id"],
            name=wanted.name.strip(),
            labels=wanted.labels,
            created_by=who.user_id,
        )
        return success("Snapshot created", snapshot_object(snapshot), status=201)

    @contract(Paged[SnapshotObject], query=Page)
    async def list(self, request: Request, who: Principal) -> Response:
        """List the organisation's snapshots, newest first, in pages."""
        return _listed(request, await self._fleet.snapshots.list(who.org_id))

    @contract(Paged[SnapshotObject], query=Page)
    async def list_of_one(self, request: Request, who: Principal) -> Response:
        """List the snapshots of one sandbox."""
        return _listed(request, await self._fleet.snapshots.list(who.org_id, sandbox=request.path_params["id"]))

    @contract(Enveloped[SnapshotObject], refusals=GUEST)
    async def get(self, request: Request, who: Principal) -> Response:
        """Return one snapshot."""
        return success("Snapshot fetched", snapshot_object(await self._found(request, who)))

    @contract(Enveloped[SnapshotObject], body=RenameRequest, refusals=GUEST)
    async def rename(self, request: Request, who: Principal) -> Response:
        """Rename a snapshot."""
        wanted = await parse_body(request, RenameRequest)
        found = await self._found(request, who)
        renamed = await self._fleet.snapshots.rename(who.org_id, found.id, wanted.name.strip())
        return success("Snapshot updated", snapshot_object(renamed))

    @contract(Done, refusals=GUEST)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a snapshot that no other snapshot or sandbox is based on."""
        found = await self._found(request, who)
        await self._fleet.snapshots.delete(who.org_id, found.id)
        return success("Snapshot deleted")

    @contract(Restored, body=RestoreRequest, refusals=GUEST)
    async def restore(self, request: Request, who: Principal) -> Response:
        """Restore a sandbox to a snapshot; all later changes are lost.

        Without a body it only wakes the sandbox, which is what earlier VoidRun servers call a restore.
        """
        body = parse_object(await read_body(request))
        if not body:
            await self._fleet.lifecycle.wake(who.org_id, request.path_params["id"])
            return success("Sandbox restored")
        wanted = checked(RestoreRequest, body)
        if not wanted.snapshot.strip():
            raise InvalidInput("snapshot is required", hint="Give a snapshot's name or id")
        sandbox = await self._fleet.snapshots.restore(who.org_id, request.path_params["id"], wanted.snapshot.strip())
        return success("Sandbox restored to the snapshot", sandbox_object(sandbox))

    @contract(Enveloped[_Forks], status=201, body=ForkRequest, refusals=GUEST)
    async def fork(self, request: Request, who: Principal) -> Response:
        """Fork a running sandbox; the answer has an error in place of each copy that failed."""
        wanted = await parse_body(request, ForkRequest)
        forks = await self._fleet.snapshots.fork(
            who.org_id, request.path_params["id"], wanted.count, volumes=wanted.volumes, created_by=who.user_id
        )
        return success("Sandbox forked", fork_objects(forks), status=201)

    async def _found(self, request: Request, who: Principal) -> Snapshot:
        snapshot = await self._fleet.snapshots.get(who.org_id, request.path_params["snapshot"])
        annotate_call(sandbox=snapshot.sandbox)
        return snapshot


def _listed(request: Request, found: Sequence[Snapshot]) -> Response:
    page = parse_query(request, Page)
    rows = [snapshot_object(snapshot) for snapshot in found[page.rows]]
    return success("Snapshots fetched", rows, meta=page.meta(len(found)))
