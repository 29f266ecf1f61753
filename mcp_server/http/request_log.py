"""Around every request: an id that answers, logs and error texts share, and one line in the log at its end.

The line has the path, never the query: a WebSocket's may hold a key. Requests that the audit recorded have its line
already, which says more; their own is for debugging.
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
    """Gives each request its id, or takes over a sane one, logs the outcome, and answers what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind; requests and WebSockets are numbered and logged."""
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
                    await _apologise(scope, receive, watch, request_id, begun=status != 0)
            finally:
                _log.log(
                    logging.DEBUG if scope["path"] in _PROBES or scope["state"].get("recorded") else logging.INFO,
                    "request",
                    method=method,
                    path=scope["path"],
                    status=status,
                    ms=round((time.perf_counter() - started) * 1000, 1),
                )


async def _apologise(scope: Scope, receive: Receive, send: Send, request_id: str, *, begun: bool) -> None:
    """Answer what nobody caught, as far as it can be answered still."""
    if scope["type"] == "websocket" and (begun or "websocket.http.response" not in scope.get("extensions", {})):
        with suppress(OSError):  # the client is gone
            await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": f"request id {request_id}"})
    elif not begun:
        await problem(500, "Internal error", f"Tell the operator the request id {request_id}")(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is short and plain, else a new one."""
    offered = Headers(scope=scope).get(HEADER, "")
    return offered if _ACCEPTED.fullmatch(offered) else secrets.token_hex(8)
