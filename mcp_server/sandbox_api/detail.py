"""Error answers as clients of sandbox-api read them: Casemate's own, with `detail` beside `error` and `details`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TEXTS = {
    401: "Missing or invalid authentication (API key or Bearer token)",
    429: "Rate limit exceeded",
}
_UNPROCESSABLE = 422
_LENGTH = b"content-length"


class Detailed:
    """Adds `detail` to the error answers of an application, those of the gate in it included.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; answers that are no errors pass as they are."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head: Message | None = None
        body = bytearray()

        async def watch(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start" and message["status"] >= 400:
                head = message
            elif head is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    content = _detailed(bytes(body), head["status"])
                    headers = [pair for pair in head["headers"] if pair[0].lower() != _LENGTH]
                    length = (_LENGTH, str(len(content)).encode())
                    await send({**head, "headers": [*headers, length]})
                    await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, watch)


def _detailed(body: bytes, status: int) -> bytes:
    try:
        value: object = json.loads(body)
    except ValueError:
        return body
    if not isinstance(value, dict):
        return body
    problem = cast("dict[str, Any]", value)
    parts = [str(problem[name]).rstrip(".") for name in ("error", "details") if problem.get(name)]
    said = ". ".join(parts)
    detail: object = _TEXTS.get(status, said)
    if status == _UNPROCESSABLE:
        detail = [{"loc": ["body"], "msg": said, "type": "value_error"}]
    return json.dumps(problem | {"detail": detail}, ensure_ascii=False, separators=(",", ":")).encode()
