"""Gives each request an id that appears in answers, logs and error texts, and logs one line at its end.

The line has the path but never the query, because a WebSocket's query may hold a key. For requests that the audit
records, the audit logs a more detailed line; theirs here has the level debug.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders

from .problem import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PROBES = frozenset({"/health", "/ready", "/metrics"})
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_SWITCHED = 101
_INTERNAL_ERROR = 1011
_log = structlog.stdlib.get_logger("casemate.access")


class RequestLog:
    """Assigns request ids or accepts the client's, logs outcomes, and answers unhandled exceptions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind; requests and WebSockets get an id and a log line."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        status = 0
        closed = False
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status, closed
            closed = closed or message["type"] == "websocket.close"
            if message["type"] in _STARTS:
                status = message.get("status", _SWITCHED)
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, watch)
            except Exception:
                _log.exception("request failed", method=method, path=scope["path"])
                if not closed:
                    await _answer_failure(scope, receive, watch, request_id, begun=status != 0)
            finally:
                _log.log(
                    logging.DEBUG if scope["path"] in _PROBES or scope["state"].get("recorded") else logging.INFO,
                    "request",
                    method=method,
                    path=scope["path"],
                    status=status,
                    ms=round((time.perf_counter() - started) * 1000, 1),
                )


async def _answer_failure(scope: Scope, receive: Receive, send: Send, request_id: str, *, begun: bool) -> None:
    """Answer an unhandled exception, if the answer has not begun."""
    if scope["type"] == "websocket" and (begun or "websocket.http.response" not in scope.get("extensions", {})):
        with suppress(OSError):  # the client is gone
            await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": f"request id {request_id}"})
    elif not begun:
        await problem(500, "Internal error", f"Tell the operator the request id {request_id}")(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """Return the client's id if it is short and plain, else a new one."""
    given = Headers(scope=scope).get(HEADER, "")
    return given if _ACCEPTED.fullmatch(given) else secrets.token_hex(8)
