"""Answers of the MCP endpoint to clients that exceed the rate limit, or whose key cannot be checked at the moment.

A plain 429 or 503 never reaches the model: clients treat it as a broken connection. So a tool call is answered with an
error result, and any other request with a JSON-RPC error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from auth.refusal import TOO_MANY

from .problem import problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from auth.refusal import Refused

_MOST_BYTES = 64 * 1024
_READ_S = 2
_CODE = -32029


async def answer_later(
    scope: Scope, receive: Receive, send: Send, refusal: Refused, headers: list[tuple[bytes, bytes]]
) -> None:
    """Refuse a request that may succeed later.

    Args:
        scope: The request.
        receive: Receives its body; only the beginning is read.
        send: Sends the answer.
        refusal: The reason, and when to retry.
        headers: Headers of the answer.
    """
    reason, text = refusal.error, f"{refusal.error}. {refusal.details}."
    if refusal.reason == TOO_MANY:
        reason = "Too many calls with this key"
        text = f"{reason}: wait {refusal.retry_after_s} s, then continue. Fewer, larger calls help."
    message = await _message(Request(scope, receive)) if scope["method"] == "POST" else {}
    modern = Headers(scope=scope).get("mcp-protocol-version", "") >= "2026"
    answer = _answer(message, refusal.status, reason, text, modern=modern)
    answer.raw_headers.extend(headers)
    await answer(scope, receive, send)


def _answer(message: dict[str, Any], status: int, reason: str, text: str, *, modern: bool) -> Response:
    request_id = message.get("id")
    if not isinstance(request_id, str | int):
        return problem(status, reason, text)
    envelope: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id}
    if message.get("method") != "tools/call":
        return JSONResponse(envelope | {"error": {"code": _CODE, "message": text}}, status_code=status)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if modern:
        result["resultType"] = "complete"
    return JSONResponse(envelope | {"result": result})


async def _message(request: Request) -> dict[str, Any]:
    """Read the JSON-RPC message; empty if it is too long, too slow or not JSON."""
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
