"""Unique ids for JSON-RPC requests, whatever ids the clients of one session choose.

In the older protocols the MCP SDK's transport routes an answer only by session and request id. Two requests with the
same id would take each other's answers: from clients that always send the same id, that count from 1 again after a
reconnect, or that reuse the id of a cancelled call at once. So every request gets a unique id on its way in, and its
answer gets the client's id on its way out. Requests without a session share nothing, and are not changed.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from mcp.types import JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic_core import from_json, to_json
from starlette.datastructures import Headers, MutableHeaders

from .mcp_sessions import SESSION_HEADER, VERSION_HEADER, owner_of
from .substitution import Substitution

if TYPE_CHECKING:
    from mcp.types import JSONRPCMessage
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_GROWTH = 64
"""Bytes by which a request may grow when its id is replaced."""

_CANCELLED = "notifications/cancelled"
_RESUME_AFTER = b"last-event-id"
_MOST_ABANDONED = 1024
_log = structlog.stdlib.get_logger("casemate.sessions")

_Session = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Call:
    """A request in progress, with the client's id and the unique one."""

    outer: int | str
    inner: str


class MessageIds:
    """Gives the requests of sessions unique ids, across any number of endpoints."""

    def __init__(self) -> None:
        self._calls: defaultdict[_Session, list[_Call]] = defaultdict(list)
        # Calls whose clients disconnected: they go on, and can still be cancelled. The oldest are forgotten.
        self._abandoned: OrderedDict[tuple[_Session, str], str] = OrderedDict()

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap an endpoint to give its requests unique ids."""

        async def with_unique_ids(scope: Scope, receive: Receive, send: Send) -> None:
            session = _session_of(scope)
            if scope["method"] == "GET":
                await app(_without_resumption(scope), receive, send)
            elif session is None:
                await app(scope, receive, send)
            else:
                await self._serve(session, app, scope, receive, send)

        return with_unique_ids

    async def _serve(self, session: _Session, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        call, scope, receive = await self._rewritten(session, scope, receive)
        if call is None:
            await app(scope, receive, send)
        else:
            await self._serve_call(session, call, app, scope, receive, send)

    async def _rewritten(
        self, session: _Session, scope: Scope, receive: Receive
    ) -> tuple[_Call | None, Scope, Receive]:
        """Read a message and replace its id; return the call that it begins, if any, and what to pass on."""
        body, complete = await _read(receive)
        message = _parsed(body) if complete else None
        call: _Call | None = None
        if isinstance(message, JSONRPCRequest):
            # It begins with a letter because the transport treats a string of digits as a number.
            call = _Call(message.id, f"c{secrets.token_hex(16)}")
            body = _with_id(body, call.inner)
        elif isinstance(message, JSONRPCNotification) and message.method == _CANCELLED:
            inner = self._cancelled(session, (message.params or {}).get("requestId"))
            body = body if inner is None else _cancelling(message, inner)
        return call, *_with_body(scope, body, receive, complete=complete)

    async def _serve_call(
        self, session: _Session, call: _Call, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        # The inner id is random, so nothing else in an answer can look like it.
        restoring = Substitution(b'"id":"%s"' % call.inner.encode(), b'"id":' + to_json(call.outer))
        events = False

        async def restored(message: Message) -> None:
            nonlocal events
            if message["type"] == "http.response.start":
                # Anything but an event stream is a refusal by the transport, which carries no id.
                events = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            elif events and message["type"] == "http.response.body":
                end = not message.get("more_body", False)
                message = {**message, "body": restoring.put(message.get("body", b""), end=end)}
            await send(message)

        self._calls[session].append(call)
        try:
            await app(scope, receive, restored)
        finally:
            self._settle(session, call, over=restoring.done or not events)

    def _settle(self, session: _Session, call: _Call, *, over: bool) -> None:
        calls = self._calls[session]
        calls.remove(call)
        if not calls:
            del self._calls[session]
        if not over:
            key = session, str(call.outer)
            self._abandoned[key] = call.inner
            self._abandoned.move_to_end(key)
            while len(self._abandoned) > _MOST_ABANDONED:
                self._abandoned.popitem(last=False)

    def _cancelled(self, session: _Session, outer: object) -> str | None:
        """Find the inner id of the call that a client cancels; None if there is none, or several."""
        if isinstance(outer, bool) or not isinstance(outer, int | str):
            return None
        # A client may cancel with a string an id that it sent as a number.
        alike = [call for call in self._calls.get(session, ()) if str(call.outer) == str(outer)]
        same = [call for call in alike if type(call.outer) is type(outer)] or alike
        if len(same) > 1:
            _log.info("cancellation ignored: several calls have its id", calls=len(same))
            return None
        return same[0].inner if same else self._abandoned.pop((session, str(outer)), None)


def _session_of(scope: Scope) -> _Session | None:
    """Return the session of a message; None without one, or for a protocol without sessions."""
    if scope["method"] != "POST":
        return None
    headers = Headers(scope=scope)
    session_id = headers.get(SESSION_HEADER)
    version = headers.get(VERSION_HEADER)
    if session_id is None or (version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS):
        return None
    return owner_of(scope) or "", session_id


def _without_resumption(scope: Scope) -> Scope:
    """Remove Last-Event-ID: no events are kept, and the transport does not answer a client that asks for them."""
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != _RESUME_AFTER]}


async def _read(receive: Receive) -> tuple[bytes, bool]:
    """Read a request's body, and tell whether it is complete or the client disconnected."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(pieces), False
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces), True


def _parsed(body: bytes) -> JSONRPCMessage | None:
    """Parse a body as the transport does; None if the transport will refuse it."""
    try:
        return jsonrpc_message_adapter.validate_python(from_json(body), by_name=False)
    except ValueError:
        return None


def _with_id(body: bytes, inner: str) -> bytes:
    """Append another id to a JSON object: of duplicate names, the transport's parser takes the last."""
    return b'%s,"id":"%s"}' % (body.rstrip()[:-1], inner.encode())


def _cancelling(message: JSONRPCNotification, inner: str) -> bytes:
    """Build the notification that cancels a call by its inner id."""
    return to_json({"jsonrpc": "2.0", "method": _CANCELLED, "params": {**(message.params or {}), "requestId": inner}})


def _with_body(scope: Scope, body: bytes, receive: Receive, *, complete: bool) -> tuple[Scope, Receive]:
    """Build a request with another body, which is released as soon as it has been passed on."""
    headers = MutableHeaders(raw=list(scope["headers"]))
    if "content-length" in headers and complete:
        headers["content-length"] = str(len(body))
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": not complete}]

    async def next_one() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": headers.raw}, next_one
