"""Refusals of the gate, and their answers over HTTP and WebSocket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    Header = tuple[bytes, bytes]

POLICY_VIOLATION = 1008
"""Close code of a WebSocket without a valid credential."""

TOO_MANY = "too many requests"
"""The reason of a refusal by the rate limit."""

_RETRY_AFTER_S = 2


class Refused(Exception):
    """A refused request.

    Attributes:
        status: HTTP status.
        reason: One of a bounded set of names, for audit and metrics.
        error: What is wrong; it never contains the credential.
        details: The way out.
        retry_after_s: Seconds after which a retry may succeed; 0 if waiting alone does not help.
    """

    def __init__(self, *, status: int, reason: str, error: str, details: str, retry_after_s: int = 0) -> None:
        super().__init__(error)
        self.status = status
        self.reason = reason
        self.error = error
        self.details = details
        self.retry_after_s = retry_after_s


def unavailable(error: str) -> Refused:
    """Create the refusal of a request whose credential cannot be checked now."""
    details = "The store or the identity provider does not answer; try again in a few seconds"
    return Refused(status=503, reason="unavailable", error=error, details=details, retry_after_s=_RETRY_AFTER_S)


async def send_refusal(
    refusal: Refused, scope: Scope, receive: Receive, send: Send, headers: list[Header] | None = None
) -> None:
    """Answer a refused request or a refused WebSocket handshake.

    The answer has no WWW-Authenticate header: it would make clients start OAuth and ignore their configured key.
    """
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # the handshake
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.error})
            return
        prefix = "websocket."
    request_id = scope.get("state", {}).get("request_id", "")
    parts = {"error": refusal.error, "details": refusal.details, "requestId": request_id}
    body = json.dumps({name: text for name, text in parts.items() if text}).encode()
    all_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(headers or []),
    ]
    if refusal.retry_after_s:
        all_headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    await send({"type": f"{prefix}http.response.start", "status": refusal.status, "headers": all_headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
