"""Routes that describe the API: `GET /api/openapi.json` for programs, `GET /api/docs` for people. Both are open."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.responses import Response

from .contract import JSON, Media, contract
from .docs_page import POLICY, docs_page
from .endpoint import Endpoint
from .openapi import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from auth.principal import Principal

    from .endpoint import SocketEndpoint

_HTML = "text/html"
_CACHE = "public, max-age=300"


class DescriptionRoutes:
    """The description of all routes, its own included.

    Args:
        endpoints: The other routes.
        sockets: The WebSockets.
        version: The version of the server.
    """

    def __init__(self, endpoints: Sequence[Endpoint], sockets: Sequence[SocketEndpoint], *, version: str) -> None:
        self._endpoints = endpoints
        self._sockets = sockets
        self._version = version

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        return [
            Endpoint(
                method="GET", path="/api/openapi.json", handler=self.openapi, scope=None, action="openapi", open=True
            ),
            Endpoint(method="GET", path="/api/docs", handler=self.docs, scope=None, action="docs", open=True),
        ]

    @contract(dict[str, Any])
    async def openapi(self, request: Request, who: Principal) -> Response:
        """Describe the API in OpenAPI 3.1."""
        content = await anyio.to_thread.run_sync(lambda: self._openapi)
        return Response(content, media_type=JSON, headers={"cache-control": _CACHE})

    @contract(Media(type=_HTML, description="The page."))
    async def docs(self, request: Request, who: Principal) -> Response:
        """Show the description as a page, which loads nothing from elsewhere and has no scripts."""
        content = await anyio.to_thread.run_sync(lambda: self._page)
        return Response(content, media_type=_HTML, headers={"cache-control": _CACHE, "content-security-policy": POLICY})

    # Made at the first request, in a thread, because it takes a while.

    @cached_property
    def _description(self) -> dict[str, Any]:
        return describe([*self._endpoints, *self.endpoints()], self._sockets, version=self._version)

    @cached_property
    def _openapi(self) -> bytes:
        return json.dumps(self._description, ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def _page(self) -> bytes:
        return docs_page(self._description).encode()
