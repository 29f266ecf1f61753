"""Around all routes, outside of the gate: one record for each REST request, and for each MCP request that got nowhere.

A tool's call is recorded where it is made; here an MCP request counts only when it was refused on the way there.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

import structlog
from starlette.datastructures import Headers

from auth.clock import Clock, now_ms

from ..http.request_id import current_request_id
from .entry import AuditedRequest, Entry, use_entry, use_request
from .log import NOT_REACHED, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..observability.metrics import Meters
    from .log import AuditLog

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Paths that supervisors ask again and again: recorded only when they are refused."""

_BODY_MOST = 64 * 1024
_QUERY_MOST = 8 * 1024
_SWITCHED = 101
_log = structlog.stdlib.get_logger("casemate.audit")


class AuditMiddleware:
    """Records and measures what passes.

    Args:
        app: Everything behind.
        audit_log: Takes the records.
        meters: Told of every request.
        mcp: Paths of the MCP endpoints.
        clock: Epoch milliseconds.
    """

    def __init__(
        self, app: ASGIApp, audit_log: AuditLog, meters: Meters, *, mcp: Collection[str], clock: Clock = now_ms
    ) -> None:
        self._app = app
        self._audit_log = audit_log
        self._meters = meters
        self._mcp = frozenset(mcp)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind; only requests and WebSockets are looked at."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        if scope["path"] in self._mcp:
            state["action"] = NOT_REACHED
        client = scope.get("client")
        request = AuditedRequest(address=client[0] if client else "", request_id=current_request_id(), state=state)
        watched = _Watched(receive, send, self._meters, scope, tapped=scope["path"] not in self._mcp)
        entry = Entry()
        began_ms, began = self._clock(), time.perf_counter()
        error: BaseException | None = None
        try:
            with use_request(request), use_entry(entry):
                await self._app(scope, watched.receive, watched.send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            watched.close()
            status = watched.outcome(error)
            self._meters.request(_method(scope), _route(scope), status, time.perf_counter() - began)
            if self._counts(scope, request, status):
                _conclude(entry, status, error, str(state.get("refusal", "")), mcp=scope["path"] in self._mcp)
                entry.sandbox = entry.sandbox or str(state.get("sandbox", ""))
                entry.arguments = watched.arguments()
                surface = "mcp" if scope["path"] in self._mcp else "rest"
                self._audit_log.record(
                    entry, request, surface=surface, action=_route(scope), began_ms=began_ms, began=began
                )
                request.calls += 1
            state["recorded"] = request.calls > 0

    def _counts(self, scope: Scope, request: AuditedRequest, status: int) -> bool:
        """Whether the request is a call that has no record yet."""
        if scope["path"] in self._mcp:
            # Who calls too often is answered in the protocol's own terms, with a status that looks like success.
            return request.calls == 0 and (status >= 400 or "refusal" in scope["state"])
        return scope["path"] not in PROBES or 400 <= status < 500


class _Watched:
    """What passes between the server and the application in one request."""

    def __init__(self, receive: Receive, send: Send, meters: Meters, scope: Scope, *, tapped: bool) -> None:
        self._inner_receive = receive
        self._inner_send = send
        self._meters = meters
        self._scope = scope
        self._status = 0
        self._stream = ""
        self._size = 0
        self._body = bytearray()
        # Of large bodies and of uploads the size is enough.
        self._tapped = tapped and "json" in Headers(scope=scope).get("content-type", "")

    async def receive(self) -> Message:
        message = await self._inner_receive()
        if message["type"] == "http.request":
            piece: bytes = message.get("body", b"")
            self._size += len(piece)
            if self._tapped and self._size <= _BODY_MOST:
                self._body += piece
        return message

    async def send(self, message: Message) -> None:
        kind: str = message["type"]
        if kind.endswith("http.response.start"):
            self._status = message["status"]
            if b"text/event-stream" in dict(message.get("headers", ())).get(b"content-type", b""):
                self._open("events")
        elif kind == "websocket.accept":
            self._status = _SWITCHED
            self._open("websocket")
        elif kind == "websocket.close":
            self._status = self._status or HTTPStatus.FORBIDDEN
        await self._inner_send(message)

    def close(self) -> None:
        """The request is over."""
        if self._stream:
            self._meters.stream(self._stream, -1)

    def outcome(self, error: BaseException | None) -> int:
        """The status of the answer; an error that nobody answered becomes one of the server's."""
        if not self._status and isinstance(error, Exception):
            return HTTPStatus.INTERNAL_SERVER_ERROR
        return int(self._status)

    def arguments(self) -> dict[str, object]:
        """What was asked for: parameters of path, query and body; for an unknown route the path itself."""
        found: dict[str, object] = {}
        if "action" not in self._scope["state"]:
            found |= {"method": _method(self._scope), "path": self._scope["path"]}
        parameters: Mapping[str, object] = self._scope.get("path_params", {})
        found |= {name: value for name, value in parameters.items() if name != "id"}
        try:
            query = self._scope["query_string"][:_QUERY_MOST].decode("latin-1")
            found |= parse_qsl(query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            found["query"] = f"[{len(self._scope['query_string'])} bytes]"
        if self._size:
            found |= self._parsed() or {"body": f"[{self._size} bytes]"}
        return found

    def _open(self, kind: str) -> None:
        self._stream = kind
        self._meters.stream(kind, 1)
        if kind == "websocket":
            # Its record comes at its end, which may be days away.
            _log.info("websocket opened", action=self._scope["state"].get("action", UNKNOWN))

    def _parsed(self) -> dict[str, object]:
        if not self._tapped or self._size > _BODY_MOST:
            return {}
        try:
            value: object = json.loads(self._body)
        except (ValueError, RecursionError):
            return {}
        return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _conclude(entry: Entry, status: int, error: BaseException | None, reason: str, *, mcp: bool) -> None:
    """Let the entry say how the request ended; a reason with a good status is that of an answer that broke off."""
    entry.status = status
    if error is not None:
        entry.fail(error)
        entry.reason = reason or entry.reason
    elif 400 <= status < 500 or (reason and mcp):
        entry.refuse(reason or _phrase(status))
    elif status >= 500 or status == 0 or reason:
        entry.decision, entry.reason = "failed", reason or _phrase(status)


def _route(scope: Scope) -> str:
    """A name for the metrics, out of a bounded set."""
    return scope["state"].get("action") or (scope["path"].strip("/") if scope["path"] in PROBES else UNKNOWN)


def _method(scope: Scope) -> str:
    return "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return f"status {status}" if status else "no answer"
