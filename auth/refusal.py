"""A request that the gate turns away, and how it is told: by HTTP status and words, on websockets too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    Header = tuple[bytes, bytes]

POLICY_VIOLATION = 1008
"""Code of a websocket's end for want of a good credential."""

TOO_MANY = "too many requests"
"""The reason of a refusal for want of calls left in a window."""

_RETRY_AFTER_S = 2


class Refused(Exception):
    """A request that does not pass.

    Attributes:
        status: HTTP status.
        reason: One of a bounded set of names, for audit and metrics.
        error: What is wrong; never with the credential.
        details: The way out.
        retry_after_s: Seconds after which it may pass; 0 if waiting alone does not help.
    """

    def __init__(self, *, status: int, reason: str, error: str, details: str, retry_after_s: int = 0) -> None:
        super().__init__(error)
        self.status = status
        self.reason = reason
        self.error = error
        self.details = details
        self.retry_after_s = retry_after_s


def unavailable(error: str) -> Refused:
    """Something that is needed for the check does not answer now."""
    details = "What it takes does not answer; try again shortly"
    return Refused(status=503, reason="unavailable", error=error, details=details, retry_after_s=_RETRY_AFTER_S)


async def tell(
    refusal: Refused, scope: Scope, receive: Receive, send: Send, headers: list[Header] | None = None
) -> None:
    """Answer a request, or a websocket's handshake, that was refused.

    There is no WWW-Authenticate: clients would start OAuth and forget the key that they are configured with.
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
