"""Checks before anything else looks at a request: whom it was sent to, from which page, and how large it is.

And what every answer says to browsers: that it is no page, and nobody's business but the caller's.
"""

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
_WAYS_OUT = {
    421: ("The Host header names another server", "Add the name to CASEMATE_ALLOWED_HOSTS if it is one of this server"),
    403: ("Pages of this origin may not call the server", "Add it to CASEMATE_ALLOWED_ORIGINS if you trust it"),
}
_NO_STORE = (b"cache-control", b"no-store")
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class SecurityHeaders:
    """Puts the headers on every answer that browsers need to be told; one that an answer has already, it keeps."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"].endswith("http.response.start"):
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message["headers"] = given + [pair for pair in (*_ALWAYS, _NO_STORE) if pair[0] not in names]
            await send(message)

        await self._app(scope, receive, dressed)


class FrontGuard:
    """Refuses requests for other hosts (DNS rebinding) and from foreign web pages, WebSockets among them."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._check = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason against it."""
        if scope["type"] in {"http", "websocket"}:
            # Only headers are looked at, so that a handshake may pass for a request.
            refusal = await self._check.validate_request(Request({**scope, "type": "http"}))
            if refusal is not None:
                error, way_out = _WAYS_OUT.get(refusal.status_code, ("The request was refused", ""))
                await _refuse(refusal.status_code, error, way_out, scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large: by what they say of themselves, and by what really comes.

    Args:
        app: Everything behind.
        most: Bytes of an ordinary request.
        uploads: Paths of requests that are streamed into a sandbox.
        most_upload: Bytes of one of those.
    """

    def __init__(
        self, app: ASGIApp, *, most: int, uploads: re.Pattern[str] | None = None, most_upload: int = 0
    ) -> None:
        self._app = app
        self._most = most
        self._uploads = uploads
        self._most_upload = most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body counted, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = self._uploads is not None and self._uploads.fullmatch(scope["path"]) is not None
        most = self._most_upload if upload else self._most
        way_out = "Split the file" if upload else "Write a large file in pieces, with append"
        details = f"The limit is {most // _MIB} MiB: {way_out[0].lower()}{way_out[1:]}"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            await _refuse(413, f"The request has {length[:20]} bytes", details, scope, receive, send)
            return
        counted = _Counted(receive, send, most)
        try:
            await self._app(scope, counted.receive, counted.send)
        except Exception:
            # Whatever the application made of it, alone or in a group: the size is the reason.
            if not counted.over or counted.begun:
                raise
        if counted.over and not counted.begun:
            await _refuse(413, f"The request has more than {most} bytes", details, scope, receive, send)


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
                await _refuse(415, error, "Send a JSON-RPC message as application/json", scope, receive, send)
                return
        await self._app(scope, receive, send)


class _TooLarge(Exception):
    """More came than may."""


class _Counted:
    """A request's body with a limit. Past it, nothing that the application still says is sent."""

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
    """Answer a request or a handshake with the reason against it, and leave the reason for the audit."""
    scope.setdefault("state", {})["refusal"] = error
    if scope["type"] == "websocket":
        await receive()  # the handshake
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error})
            return
    await problem(status, error, details)(scope, receive, send)
