"""Around every request: an id that answers, logs and error texts share, and one line in the log at its end."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders

from .answers import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PROBES = frozenset({"/health", "/ready"})
_log = structlog.stdlib.get_logger("casemate.access")


class RequestLog:
    """Gives each request its id, or takes over a sane one, logs the outcome, and answers what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind; only HTTP requests are numbered and logged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        status = 0
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, watch)
            except Exception:
                _log.exception("request failed", method=scope["method"], path=scope["path"])
                if status == 0:
                    answer = problem(500, "Internal error", f"Tell the operator the request id {request_id}")
                    await answer(scope, receive, watch)
            finally:
                _log.log(
                    logging.DEBUG if scope["path"] in _PROBES else logging.INFO,
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round((time.perf_counter() - started) * 1000, 1),
                )


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is short and plain, else a new one."""
    offered = Headers(scope=scope).get(HEADER, "")
    return offered if _ACCEPTED.fullmatch(offered) else secrets.token_hex(8)
