"""Answers of the server itself to requests for published ports: plain text, because people and programs read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from vmm.errors import CasemateError, Conflict, HostExhausted, LinkTimeout, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

POLICY_VIOLATION = 1008
AGAIN = "This port cannot be opened now. Try again in a few seconds."
_RETRY = {"retry-after": "2"}


class GuestFailed(Exception):
    """The server in the sandbox cannot be reached, or its answer cannot be used.

    Attributes:
        status: HTTP status of the answer.
        text: What is wrong, and the way out.
        internal: Whether the text is about this host, and only for callers with a key.
    """

    def __init__(self, status: int, text: str, *, internal: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.internal = internal


class ClientLeft(Exception):
    """The client has left, or takes nothing any more."""


def failure_of(error: CasemateError, port: int) -> GuestFailed:
    """Explain why a port could not be reached."""
    match error:
        case NotFound():
            status = 404
        case LinkTimeout():
            status = 504
        case HostExhausted() | Unavailable():
            status = 503
        case _:
            status = 502
    internal = not isinstance(error, Conflict | NotFound)
    return GuestFailed(status, f"Port {port} of the sandbox cannot be opened: {error}", internal=internal)


async def answer(
    status: int, text: str, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str] | None = None
) -> None:
    """Answer a request, or refuse a WebSocket's handshake, whose first message was received already."""
    always = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
    retry = _RETRY if status == 503 else {}
    response = PlainTextResponse(f"{text}\n", status_code=status, headers={**always, **retry, **(headers or {})})
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send(
            {
                "type": "websocket.close",
                "code": POLICY_VIOLATION,
                "reason": text.encode()[:120].decode("utf-8", "ignore"),
            }
        )
        return
    await response(scope, receive, send)
