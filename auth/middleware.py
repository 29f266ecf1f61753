"""The gate: pure ASGI, lets a request through only with a valid API key and says from whom it comes.

The principal goes into `scope["state"]`, and into `scope["user"]` in the form by which the MCP SDK binds the sessions
of older protocols to the key's owner. The headers that carried the key are taken off, so that nothing behind the gate
can log or repeat it. A refusal carries no WWW-Authenticate: clients would start OAuth and forget the configured key.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from storage.errors import StoreError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .keys import KeyStore
    from .principal import Principal

_KEY_HEADER = b"x-api-key"
_BEARER_HEADER = b"authorization"
_RETRY_AFTER_S = 2
_POLICY_VIOLATION = 1008
_HOW = "Send the key as the header X-API-Key, or as Authorization: Bearer"

_log = structlog.get_logger(__name__)


class _Refusal(Exception):
    def __init__(self, *, status: int, error: str, details: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.details = details


class ApiKeyAuth:
    """Wraps an ASGI application. Requests and websockets need a key; what is neither (lifespan) passes."""

    def __init__(self, app: ASGIApp, keys: KeyStore) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request, or pass it on with its principal."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._principal(_presented(scope["headers"]))
        except _Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        _introduce(scope, principal)
        await self._app(scope, receive, send)

    async def _principal(self, key: str) -> Principal:
        try:
            principal = await self._keys.verify(key)
        except StoreError as error:
            _log.error("key not checked: the store failed", error=str(error))
            raise _Refusal(
                status=503, error="keys cannot be checked now", details="The store does not answer; try again shortly"
            ) from None
        if principal is None:
            raise _Refusal(
                status=401, error="invalid or inactive API key", details="Check the key, or have a new one made"
            )
        return principal


def _presented(headers: list[tuple[bytes, bytes]]) -> str:
    keys = [value.strip() for name, value in headers if name.lower() == _KEY_HEADER]
    authorizations = [value.strip() for name, value in headers if name.lower() == _BEARER_HEADER]
    if len(keys) > 1 or len(authorizations) > 1:
        raise _Refusal(status=400, error="X-API-Key or Authorization is given more than once", details=_HOW)
    # An empty header is what a client sends whose configuration names an unset variable: as good as none.
    scheme, _, token = authorizations[0].partition(b" ") if authorizations else (b"", b"", b"")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    key = keys[0] if keys else b""
    if key and bearer:
        raise _Refusal(status=400, error="provide either X-API-Key or Bearer token, not both", details=_HOW)
    if not key and not bearer:
        raise _Refusal(status=401, error="authentication required (X-API-Key or Bearer token)", details=_HOW)
    return (key or bearer).decode("latin-1")


def _introduce(scope: Scope, principal: Principal) -> None:
    scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() not in {_KEY_HEADER, _BEARER_HEADER}]
    scope.setdefault("state", {})["principal"] = principal
    token = AccessToken(
        token="-",  # noqa: S106 -- the SDK wants a text, and the key shall not travel further
        client_id="api-key",
        scopes=[],
        subject=principal.org_id,
        claims={"user": principal.user_id},
    )
    scope["user"] = AuthenticatedUser(token)


async def _refuse(refusal: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # the handshake
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.error})
            return
        prefix = "websocket."
    body = json.dumps({"error": refusal.error, "details": refusal.details}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.status == 503:
        headers.append((b"retry-after", str(_RETRY_AFTER_S).encode()))
    await send({"type": f"{prefix}http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
