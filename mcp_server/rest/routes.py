"""All REST routes for sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from .archive_files import ArchiveFileRoutes
from .archives import ArchiveRoutes
from .background import BackgroundRoutes
from .commands import CommandRoutes
from .endpoint import Endpoint, routes
from .files import FileRoutes
from .images import ImageRoutes
from .network import NetworkRoutes
from .ports import PortRoutes
from .sandboxes import SandboxRoutes
from .sessions import SessionRoutes
from .shell import ShellRoutes
from .snapshots import SnapshotRoutes
from .sockets import SocketRoutes
from .terminals import TerminalRoutes, ViewerCount

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute, Route

    from auth.principal import Principal
    from mcp_server.defaults import Defaults
    from mcp_server.ports.published import PublishedPorts
    from vmm.fleet import Fleet


def rest_routes(fleet: Fleet, defaults: Defaults, ports: PublishedPorts) -> list[BaseRoute]:
    """Build the routes that need a credential, WebSockets included; mount them behind the gate.

    Args:
        fleet: The running fleet; it must outlive the routes.
        defaults: Image and size of a sandbox whose creator names none.
        ports: The published ports of the sandboxes.
    """
    viewers = ViewerCount()
    port_routes = PortRoutes(fleet, ports)
    modules = (
        SandboxRoutes(fleet, defaults),
        SnapshotRoutes(fleet),
        NetworkRoutes(fleet),
        ImageRoutes(fleet),
        CommandRoutes(fleet),
        BackgroundRoutes(fleet),
        SessionRoutes(fleet),
        FileRoutes(fleet),
        ArchiveRoutes(fleet),
        ArchiveFileRoutes(fleet),
        ShellRoutes(fleet),
        TerminalRoutes(fleet, viewers),
        port_routes,
    )
    endpoints = [endpoint for module in modules for endpoint in module.endpoints()]
    sockets = [*SocketRoutes(fleet, viewers).routes(), *port_routes.routes()]
    return [*sockets, *routes(endpoints, sockets=[socket.path for socket in sockets])]


def version_routes(version: str, *, commit: str = "", build_time: str = "") -> list[Route]:
    """Build `GET /api/version`, which needs no credential."""

    async def tell(_request: Request, _who: Principal) -> Response:
        return JSONResponse({"version": version, "commit": commit, "buildTime": build_time})

    return routes([Endpoint(method="GET", path="/api/version", handler=tell, scope=None, action="version", open=True)])
