"""Directories as tar streams: download with GET, upload with PUT. VoidRun has no such routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from auth.roles import Scope

from .body import WireModel, parse_query
from .contract import GUEST, Media, contract
from .endpoint import Endpoint
from .files import attachment
from .paths import GuestPath
from .shapes.files import ReportObject, Unpacked
from .streaming import Streamed, incoming, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import ArchiveReport

    from .streaming import Answer

_TYPE = "application/x-tar"


class Packing(WireModel):
    """A directory to download."""

    path: GuestPath


class Unpacking(WireModel):
    """A directory to unpack an archive into, and whether to keep the owners that the archive names."""

    path: GuestPath
    owners: bool = False


class ArchiveRoutes:
    """The routes that transfer directories."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        path = "/api/sandboxes/{id}/files/archive"
        return [
            Endpoint(method="GET", path=path, handler=self.pack, scope=Scope.READ, action="file.pack"),
            Endpoint(method="PUT", path=path, handler=self.unpack, scope=Scope.RUN, action="file.unpack"),
        ]

    @contract(Media(type=_TYPE, description="The directory."), query=Packing, refusals=GUEST)
    async def pack(self, request: Request, who: Principal) -> Response:
        """Stream a directory as a tar archive. A comment on its last member lists what was left out."""
        wanted = parse_query(request, Packing)
        owner, ref = who.org_id, request.path_params["id"]
        name = wanted.path.rstrip("/").rpartition("/")[2] or "root"
        headers = {"content-type": _TYPE, "content-disposition": attachment(f"{name}.tar")}
        if request.method == "HEAD":
            async with self._fleet.guest.pack(owner, ref, wanted.path):
                return Response(headers=headers)

        async def serve(receive: Receive, answer: Answer) -> None:
            async with while_connected(receive), self._fleet.guest.pack(owner, ref, wanted.path) as archive:
                await answer.begin(200, headers)
                async for piece in archive:
                    if piece:
                        await answer.write(piece)

        return Streamed(serve)

    @contract(Unpacked, query=Unpacking, body=(Media(type=_TYPE, description="The archive."),), refusals=GUEST)
    async def unpack(self, request: Request, who: Principal) -> Response:
        """Unpack the body, a tar archive, into a directory, which is created if it is missing."""
        wanted = parse_query(request, Unpacking)
        owner, ref = who.org_id, request.path_params["id"]
        report = await self._fleet.guest.unpack(
            owner, ref, wanted.path, incoming(request.receive), owners=wanted.owners
        )
        return JSONResponse(Unpacked(success=True, path=wanted.path, **report_object(report)))


def report_object(report: ArchiveReport) -> ReportObject:
    """Convert a report to JSON: what was unpacked, and the first thousand paths that were skipped."""
    return {
        "files": report.files,
        "bytes": report.size,
        "skipped": [{"path": path, "reason": reason} for path, reason in report.listed],
        "skippedCount": report.skipped,
    }
