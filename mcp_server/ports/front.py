"""The outermost middleware: requests for published ports leave the way of all others before anything looks at them.

What guards the API (Host and Origin checks, limits on bodies, its security headers) is not for the servers in
sandboxes; and what is for them never reaches the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from starlette.responses import RedirectResponse

from .headers import host_of
from .names import reached_by
from .visitors import without_slash

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .names import Place, PortNames


class PortsFront:
    """Tells requests for published ports from all others, by Host header and by path.

    Args:
        app: Everything else.
        names: Reads hosts and paths.
        by_host: Serves ports by host name.
        by_path: Serves ports by path, on the host of the API and behind its checks of Host and Origin.
    """

    def __init__(self, app: ASGIApp, *, names: PortNames, by_host: ASGIApp, by_path: ASGIApp) -> None:
        self._app = app
        self._names = names
        self._by_host = by_host
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        host = host_of(scope)
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        place = self._names.by_host(host, path)
        if place is not None:
            await _serve(self._by_host, place, scope, receive, send)
            return
        place = self._names.by_path(path)
        if place is not None and place.path:
            await _serve(self._by_path, place, scope, receive, send)
        elif place is not None and scope.get("method") in {"GET", "HEAD"}:
            await RedirectResponse(without_slash(scope, place), status_code=308)(scope, receive, send)
        else:
            with reached_by(host):
                await self._app(scope, receive, send)


async def _serve(app: ASGIApp, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
    scope.setdefault("state", {})["place"] = place
    with structlog.contextvars.bound_contextvars(sandbox=place.ref, port=place.port):
        await app(scope, receive, send)
