"""What a client of the MCP endpoint is told when it calls too often: in its own language, so that a model can act.

A plain 429 never reaches the model: clients turn it into a broken connection. A tool call is therefore answered with a
result that is an error, any other request with a JSON-RPC error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .answers import problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_MOST_BYTES = 64 * 1024
_READ_S = 2
_CODE = -32029


async def answer_limited(
    scope: Scope, receive: Receive, send: Send, retry_after_s: int, headers: list[tuple[bytes, bytes]]
) -> None:
    """Refuse a request for now.

    Args:
        scope: The request.
        receive: Gives its body, of which only the beginning is read.
        send: Takes the answer.
        retry_after_s: When it may come again, in seconds.
        headers: To be put on the answer.
    """
    text = f"Too many calls with this key: wait {retry_after_s} s, then go on. Fewer and larger calls help."
    message = await _message(Request(scope, receive)) if scope["method"] == "POST" else {}
    answer = _answer(message, text, modern=Headers(scope=scope).get("mcp-protocol-version", "") >= "2026")
    answer.raw_headers.extend(headers)
    await answer(scope, receive, send)


def _answer(message: dict[str, Any], text: str, *, modern: bool) -> Response:
    request_id = message.get("id")
    if not isinstance(request_id, str | int):
        return problem(429, "Too many calls with this key", text)
    envelope: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id}
    if message.get("method") != "tools/call":
        return JSONResponse(envelope | {"error": {"code": _CODE, "message": text}}, status_code=429)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if modern:
        result["resultType"] = "complete"
    return JSONResponse(envelope | {"result": result})


async def _message(request: Request) -> dict[str, Any]:
    """The JSON-RPC message; nothing of one that is too long, too slow or no JSON."""
    body = b""
    try:
        with anyio.fail_after(_READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MOST_BYTES:
                    return {}
        message = json.loads(body)
    except (TimeoutError, ClientDisconnect, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", message) if isinstance(message, dict) else {}
