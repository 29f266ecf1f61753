"""Checks before anything else looks at a request: whom it was sent to, from which page, and how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.requests import Request

from .answers import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_SHOWN = 80
_WAYS_OUT = {
    421: ("The Host header names another server", "Add the name to CASEMATE_ALLOWED_HOSTS if it is one of this server"),
    403: ("Pages of this origin may not call the server", "Add it to CASEMATE_ALLOWED_ORIGINS if you trust it"),
}


class FrontGuard:
    """Refuses requests for other hosts (DNS rebinding), from foreign web pages, and with bodies that are too large."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings, *, max_body: int) -> None:
        self._app = app
        self._check = TransportSecurityMiddleware(security)
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason against it."""
        if scope["type"] == "http":
            refusal = await self._check.validate_request(Request(scope))
            if refusal is not None:
                error, way_out = _WAYS_OUT.get(refusal.status_code, ("The request was refused", ""))
                await problem(refusal.status_code, error, way_out)(scope, receive, send)
                return
            length = Headers(scope=scope).get("content-length", "0")
            if length.isdecimal() and int(length) > self._max_body:
                limit = f"{self._max_body // (1024 * 1024)} MiB"
                details = f"The limit is {limit}: write a large file in pieces, with append"
                await problem(413, f"The request has {length[:20]} bytes", details)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class JsonOnly:
    """Refuses bodies that do not even claim to be JSON, in words; the protocol's own layer would say less."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say what its Content-Type must be."""
        if scope["type"] == "http" and scope["method"] == "POST":
            given = Headers(scope=scope).get("content-type", "")
            if given.partition(";")[0].strip().lower() != "application/json":
                error = f"Content-Type is {given[:_SHOWN]!r}" if given else "Content-Type is missing"
                await problem(415, error, "Send a JSON-RPC message as application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)
