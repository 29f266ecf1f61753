"""The whole REST API: its routes, its WebSockets, its version and its description."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from .contract import contract
from .description import DescriptionRoutes
from .endpoint import Endpoint
from .shapes.sandboxes import VersionObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal

    from .endpoint import SocketEndpoint


class Api:
    """All routes under `/api`, except MCP.

    Attributes:
        closed: The routes that need a credential.
        open: The routes that need none.
        sockets: The WebSockets, which need a credential.

    Args:
        closed: All of them.
        others: The open routes besides the version and the description, which it adds.
        sockets: All of them.
        version: The version of the server.
    """

    def __init__(
        self,
        closed: Sequence[Endpoint],
        others: Sequence[Endpoint],
        sockets: Sequence[SocketEndpoint],
        *,
        version: str,
    ) -> None:
        self.closed = closed
        self.sockets = sockets
        described = [*closed, *others, version_endpoint(version)]
        self.open = [*described[len(closed) :], *DescriptionRoutes(described, sockets, version=version).endpoints()]


def version_endpoint(version: str, *, commit: str = "", build_time: str = "") -> Endpoint:
    """Declare `GET /api/version`, which needs no credential."""

    @contract(VersionObject)
    async def tell(_request: Request, _who: Principal) -> Response:
        """Return the version of the server."""
        return JSONResponse(VersionObject(version=version, commit=commit, buildTime=build_time))

    return Endpoint(method="GET", path="/api/version", handler=tell, scope=None, action="version", open=True)
