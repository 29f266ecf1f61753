"""Volumes over REST: create, list, get, copy and delete them, attach them to sandboxes and detach them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field

from auth.roles import Scope
from mcp_server.shapes import VolumeObject
from mcp_server.wire import volume_object
from vmm.volumes.volume import SIZE, SIZE_RANGE

from .body import WireModel, parse_body, parse_query
from .contract import GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .paging import Page
from .shapes.envelope import Done, Enveloped, Paged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.volumes.volume import Volume

Size = Annotated[
    int,
    Field(gt=-(2**31), lt=2**31, json_schema_extra={"minimum": SIZE_RANGE[0], "maximum": SIZE_RANGE[1]}),
]
"""MiB. The fleet checks the range; here only the API's description has it."""


class VolumeRequest(WireModel):
    """A volume to create; `sizeMB` is in MiB."""

    model_config = ConfigDict(extra="forbid")

    name: str
    size_mb: Annotated[Size, Field(alias="sizeMB")] = SIZE


class CopyRequest(WireModel):
    """The name of a copy; by default that of the volume with a number."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""


class AttachRequest(WireModel):
    """A volume for a sandbox: its name or id, and the directory where programs see it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    path: str
    read_only: bool = False


class DetachQuery(WireModel):
    """Whether to detach a volume that programs still use; what they have not yet written is lost."""

    force: bool = False


class VolumeRoutes:
    """The routes for volumes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        all_, one = "/api/volumes", "/api/volumes/{volume}"
        of_box = "/api/sandboxes/{id}/volumes"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="volume.list"),
            Endpoint(method="POST", path=all_, handler=self.create, scope=run, action="volume.create"),
            Endpoint(method="GET", path=one, handler=self.get, scope=read, action="volume.get"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="volume.delete"),
            Endpoint(method="POST", path=f"{one}/snapshot", handler=self.snapshot, scope=run, action="volume.snapshot"),
            Endpoint(method="GET", path=of_box, handler=self.list_of_one, scope=read, action="volume.list"),
            Endpoint(method="POST", path=of_box, handler=self.attach, scope=run, action="volume.attach"),
            Endpoint(
                method="DELETE", path=f"{of_box}/{{volume}}", handler=self.detach, scope=run, action="volume.detach"
            ),
        ]

    @contract(
        Enveloped[VolumeObject],
        status=201,
        body=VolumeRequest,
        refusals=(409, 507, 529),
        yields={"volume": "/data/id"},
    )
    async def create(self, request: Request, who: Principal) -> Response:
        """Create an empty volume, which takes as much of the host's disk as it holds."""
        wanted = await parse_body(request, VolumeRequest)
        volume = await self._fleet.volumes.create(
            who.org_id, wanted.name.strip(), size=wanted.size_mb, created_by=who.user_id
        )
        return success("Volume created", volume_object(volume), status=201)

    @contract(Paged[VolumeObject], query=Page)
    async def list(self, request: Request, who: Principal) -> Response:
        """List the organisation's volumes by name, in pages."""
        return _listed(request, await self._fleet.volumes.list(who.org_id))

    @contract(Paged[VolumeObject], query=Page)
    async def list_of_one(self, request: Request, who: Principal) -> Response:
        """List the volumes of one sandbox."""
        return _listed(request, await self._fleet.volumes.list(who.org_id, sandbox=request.path_params["id"]))

    @contract(Enveloped[VolumeObject])
    async def get(self, request: Request, who: Principal) -> Response:
        """Return one volume, by name or id."""
        volume = await self._fleet.volumes.get(who.org_id, request.path_params["volume"])
        return success("Volume fetched", volume_object(volume))

    @contract(Done, refusals=GUEST)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a volume with everything in it; refused while a sandbox has it."""
        await self._fleet.volumes.delete(who.org_id, request.path_params["volume"])
        return success("Volume deleted")

    @contract(Enveloped[VolumeObject], status=201, body=CopyRequest, refusals=GUEST)
    async def snapshot(self, request: Request, who: Principal) -> Response:
        """Make a new volume with what this one holds now, even while programs write to it."""
        wanted = await parse_body(request, CopyRequest)
        volume = await self._fleet.volumes.snapshot(
            who.org_id, request.path_params["volume"], wanted.name.strip(), created_by=who.user_id
        )
        return success("Volume copied", volume_object(volume), status=201)

    @contract(Enveloped[VolumeObject], status=201, body=AttachRequest, refusals=GUEST)
    async def attach(self, request: Request, who: Principal) -> Response:
        """Mount a volume in a sandbox, read-write in one or read-only in several; wakes the sandbox."""
        wanted = await parse_body(request, AttachRequest)
        volume = await self._fleet.volumes.attach(
            who.org_id, request.path_params["id"], wanted.name.strip(), wanted.path, read_only=wanted.read_only
        )
        return success("Volume attached", volume_object(volume), status=201)

    @contract(Enveloped[VolumeObject], query=DetachQuery, refusals=GUEST)
    async def detach(self, request: Request, who: Principal) -> Response:
        """Unmount a volume and take it out of a sandbox; refused while programs use it."""
        wanted = parse_query(request, DetachQuery)
        volume = await self._fleet.volumes.detach(
            who.org_id, request.path_params["id"], request.path_params["volume"], force=wanted.force
        )
        return success("Volume detached", volume_object(volume))


def _listed(request: Request, found: Sequence[Volume]) -> Response:
    page = parse_query(request, Page)
    rows = [volume_object(volume) for volume in found[page.rows]]
    return success("Volumes fetched", rows, meta=page.meta(len(found)))
