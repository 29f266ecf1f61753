"""Whole directories over REST, each as one tar stream: out with GET, in with PUT. Casemate's own, not VoidRun's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from auth.roles import Scope

from .body import WireModel, parse_query
from .endpoint import Endpoint
from .files import attachment
from .paths import GuestPath
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
    """A directory to send out."""

    path: GuestPath


class Unpacking(WireModel):
    """A directory to take an archive in, with the owners that it has or without."""

    path: GuestPath
    owners: bool = False


class ArchiveRoutes:
    """The routes that move directories."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        path = "/api/sandboxes/{id}/files/archive"
        return [
            Endpoint(method="GET", path=path, handler=self.pack, scope=Scope.READ, action="file.pack"),
            Endpoint(method="PUT", path=path, handler=self.unpack, scope=Scope.RUN, action="file.unpack"),
        ]

    async def pack(self, request: Request, who: Principal) -> Response:
        """A directory as a tar archive. What was left out stands in a comment of its last member."""
        wish = parse_query(request, Packing)
        owner, ref = who.org_id, request.path_params["id"]
        name = wish.path.rstrip("/").rpartition("/")[2] or "root"
        headers = {"content-type": _TYPE, "content-disposition": attachment(f"{name}.tar")}
        if request.method == "HEAD":
            async with self._fleet.guest.pack(owner, ref, wish.path):
                return Response(headers=headers)

        async def serve(receive: Receive, answer: Answer) -> None:
            async with while_connected(receive), self._fleet.guest.pack(owner, ref, wish.path) as archive:
                await answer.begin(200, headers)
                async for piece in archive:
                    if piece:
                        await answer.write(piece)

        return Streamed(serve)

    async def unpack(self, request: Request, who: Principal) -> Response:
        """Unpack the body, a tar archive, into a directory, which is made if it is not there."""
        wish = parse_query(request, Unpacking)
        owner, ref = who.org_id, request.path_params["id"]
        report = await self._fleet.guest.unpack(owner, ref, wish.path, incoming(request.receive), owners=wish.owners)
        return JSONResponse({"success": True, "path": wish.path, **report_object(report)})


def report_object(report: ArchiveReport) -> dict[str, Any]:
    """What was unpacked, and what was not: of that the first thousand by name."""
    return {
        "files": report.files,
        "bytes": report.size,
        "skipped": [{"path": path, "reason": reason} for path, reason in report.listed],
        "skippedCount": report.skipped,
    }
