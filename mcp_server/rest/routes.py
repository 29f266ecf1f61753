"""All REST routes for sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .archive_files import ArchiveFileRoutes
from .archives import ArchiveRoutes
from .background import BackgroundRoutes
from .commands import CommandRoutes
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
from .volumes import VolumeRoutes
from .watch import WatchRoutes

if TYPE_CHECKING:
    from mcp_server.defaults import Defaults
    from mcp_server.ports.published import PublishedPorts
    from vmm.fleet import Fleet


class SandboxApi:
    """The routes for sandboxes, which need a credential.

    Attributes:
        endpoints: The routes.
        sockets: The WebSockets.

    Args:
        fleet: The running fleet; it must outlive the routes.
        defaults: Image and size of a sandbox whose creator names none.
        ports: The published ports of the sandboxes.
    """

    def __init__(self, fleet: Fleet, defaults: Defaults, ports: PublishedPorts) -> None:
        viewers = ViewerCount()
        port_routes, watch_routes = PortRoutes(fleet, ports), WatchRoutes(fleet)
        modules = (
            SandboxRoutes(fleet, defaults),
            SnapshotRoutes(fleet),
            VolumeRoutes(fleet),
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
            watch_routes,
            port_routes,
        )
        self.endpoints = [endpoint for module in modules for endpoint in module.endpoints()]
        self.sockets = [
            *SocketRoutes(fleet, viewers).sockets(),
            *watch_routes.sockets(),
            *port_routes.sockets(),
        ]
