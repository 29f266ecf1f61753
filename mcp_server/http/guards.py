"""Checks of every request before anything else sees it: Host, Origin and size; and security headers on every answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.requests import Request

from .problem import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SHOWN = 80
_MIB = 1024 * 1024
_POLICY_VIOLATION = 1008
_REASONS = {
    421: ("The Host header names another server", "Add the name to CASEMATE_ALLOWED_HOSTS if it is this server's"),
    403: ("This origin is not allowed to call the server", "Add it to CASEMATE_ALLOWED_ORIGINS if you trust it"),
}
_NO_STORE = (b"cache-control", b"no-store")
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class SecurityHeaders:
    """Adds security headers for browsers to every answer, without replacing headers that the answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"].endswith("http.response.start"):
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message["headers"] = given + [pair for pair in (*_ALWAYS, _NO_STORE) if pair[0] not in names]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class FrontGuard:
    """Refuses requests for other hosts (DNS rebinding) and from foreign web pages, WebSockets among them."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._check = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in {"http", "websocket"}:
            # The check reads only headers, so a handshake can be presented as a request.
            refusal = await self._check.validate_request(Request({**scope, "type": "http"}))
            if refusal is not None:
                error, details = _REASONS.get(refusal.status_code, ("The request was refused", ""))
                await _refuse(refusal.status_code, error, details, scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large, by Content-Length and by the bytes that arrive.

    Args:
        app: The application.
        most: Largest body of an ordinary request, in bytes.
        uploads: Paths whose bodies are streamed into a sandbox.
        most_upload: Largest body on those paths, in bytes.
    """

    def __init__(
        self, app: ASGIApp, *, most: int, uploads: re.Pattern[str] | None = None, most_upload: int = 0
    ) -> None:
        self._app = app
        self._most = most
        self._uploads = uploads
        self._most_upload = most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count its body, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = self._uploads is not None and self._uploads.fullmatch(scope["path"]) is not None
        most = self._most_upload if upload else self._most
        hint = "split the file" if upload else "write a large file in pieces, with append"
        details = f"The limit is {most // _MIB} MiB: {hint}"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            await _refuse(413, f"The request has {length[:20]} bytes", details, scope, receive, send)
            return
        counted = _Counted(receive, send, most)
        try:
            await self._app(scope, counted.receive, counted.send)
        except Exception:
            # The application may have wrapped the error or raised another; the size is the reason.
            if not counted.over or counted.begun:
                raise
        if counted.over and not counted.begun:
            await _refuse(413, f"The request has more than {most} bytes", details, scope, receive, send)


class JsonOnly:
    """Refuses POST requests whose Content-Type is not JSON, with a clearer message than the MCP SDK's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 415."""
        if scope["type"] == "http" and scope["method"] == "POST":
            given = Headers(scope=scope).get("content-type", "")
            if given.partition(";")[0].strip().lower() != "application/json":
                error = f"Content-Type is {given[:_SHOWN]!r}" if given else "Content-Type is missing"
                await _refuse(415, error, "Send a JSON-RPC message as application/json", scope, receive, send)
                return
        await self._app(scope, receive, send)


class _TooLarge(Exception):
    """The body is larger than the limit."""


class _Counted:
    """A request's body with a limit. Beyond it, the application can no longer begin an answer."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive = receive
        self._send = send
        self._left = most
        self.over = False
        self.begun = False

    async def receive(self) -> Message:
        if self.over:
            raise _TooLarge
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.over = True
                raise _TooLarge
        return message

    async def send(self, message: Message) -> None:
        if self.over and not self.begun:
            return
        self.begun = True
        await self._send(message)


async def _refuse(status: int, error: str, details: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request or a handshake, and leave the reason for the audit."""
    scope.setdefault("state", {})["refusal"] = error
    if scope["type"] == "websocket":
        await receive()  # the handshake
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error})
            return
    await problem(status, error, details)(scope, receive, send)
