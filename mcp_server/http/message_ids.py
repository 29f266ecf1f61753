"""Ids of JSON-RPC requests that cannot meet, whatever ids the clients of one session choose.

The MCP SDK's transport of the older protocols finds the way of an answer by the request's id and the session alone. Two
requests under one id would take each other's answers: clients that always send the same id, one that counts from 1
again after a reconnect, one that uses the id of a cancelled call at once. So every request gets an id of its own on its
way in, and its answer the client's on its way out. Where there is no session, nothing is shared and nothing is changed.
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
"""Bytes that a request may be longer on the inside than it came."""

_CANCELLED = "notifications/cancelled"
_RESUME_AFTER = b"last-event-id"
_MOST_LEFT = 1024
_log = structlog.stdlib.get_logger("casemate.sessions")

_Session = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Call:
    """A request on its way."""

    outer: int | str
    inner: str


class MessageIds:
    """Gives the requests of sessions their ids, over any number of endpoints."""

    def __init__(self) -> None:
        self._calls: defaultdict[_Session, list[_Call]] = defaultdict(list)
        # Calls whose clients hung up: they go on, and may be cancelled still. The oldest are forgotten.
        self._left: OrderedDict[tuple[_Session, str], str] = OrderedDict()

    def around(self, app: ASGIApp) -> ASGIApp:
        """The endpoint with ids that cannot meet."""

        async def separated(scope: Scope, receive: Receive, send: Send) -> None:
            session = _session_of(scope)
            if scope["method"] == "GET":
                await app(_afresh(scope), receive, send)
            elif session is None:
                await app(scope, receive, send)
            else:
                await self._serve(session, app, scope, receive, send)

        return separated

    async def _serve(self, session: _Session, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        call, scope, receive = await self._arrived(session, scope, receive)
        if call is None:
            await app(scope, receive, send)
        else:
            await self._serve_call(session, call, app, scope, receive, send)

    async def _arrived(self, session: _Session, scope: Scope, receive: Receive) -> tuple[_Call | None, Scope, Receive]:
        """A message as the transport is to see it, with the call that it begins if it begins one."""
        body, complete = await _read(receive)
        message = _parsed(body) if complete else None
        call: _Call | None = None
        if isinstance(message, JSONRPCRequest):
            # A letter first: the transport takes a text of digits for a number.
            call = _Call(message.id, f"c{secrets.token_hex(16)}")
            body = _with_id(body, call.inner)
        elif isinstance(message, JSONRPCNotification) and message.method == _CANCELLED:
            inner = self._meant(session, (message.params or {}).get("requestId"))
            body = body if inner is None else _cancelling(message, inner)
        return call, *_sent(scope, body, receive, complete=complete)

    async def _serve_call(
        self, session: _Session, call: _Call, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        # Nobody can know the inner id, so that nothing else in an answer looks like it.
        restoring = Substitution(b'"id":"%s"' % call.inner.encode(), b'"id":' + to_json(call.outer))
        events = False

        async def restored(message: Message) -> None:
            nonlocal events
            if message["type"] == "http.response.start":
                # What is no stream of events is a refusal by the transport, and bears no id.
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
            self._left[key] = call.inner
            self._left.move_to_end(key)
            while len(self._left) > _MOST_LEFT:
                self._left.popitem(last=False)

    def _meant(self, session: _Session, outer: object) -> str | None:
        """The inner id of the call that a client wants to cancel; None if there is none, or no telling which."""
        if isinstance(outer, bool) or not isinstance(outer, int | str):
            return None
        # A client may write as text what it sent as a number.
        alike = [call for call in self._calls.get(session, ()) if str(call.outer) == str(outer)]
        same = [call for call in alike if type(call.outer) is type(outer)] or alike
        if len(same) > 1:
            _log.info("cancellation ignored: several calls have its id", calls=len(same))
            return None
        return same[0].inner if same else self._left.pop((session, str(outer)), None)


def _session_of(scope: Scope) -> _Session | None:
    """The session that a message is for; None for what comes without one, or in a protocol that has none."""
    if scope["method"] != "POST":
        return None
    headers = Headers(scope=scope)
    session_id = headers.get(SESSION_HEADER)
    version = headers.get(VERSION_HEADER)
    if session_id is None or (version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS):
        return None
    return owner_of(scope) or "", session_id


def _afresh(scope: Scope) -> Scope:
    """A stream that begins now: no events are kept, and the transport has no answer to a client that wants old ones."""
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != _RESUME_AFTER]}


async def _read(receive: Receive) -> tuple[bytes, bool]:
    """A request's body, and whether all of it came before its client hung up."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(pieces), False
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces), True


def _parsed(body: bytes) -> JSONRPCMessage | None:
    """What the transport will take a body for; None if it will refuse it."""
    try:
        return jsonrpc_message_adapter.validate_python(from_json(body), by_name=False)
    except ValueError:
        return None


def _with_id(body: bytes, inner: str) -> bytes:
    """A JSON object with another id: of a name that comes twice, the transport's parser takes the last."""
    return b'%s,"id":"%s"}' % (body.rstrip()[:-1], inner.encode())


def _cancelling(message: JSONRPCNotification, inner: str) -> bytes:
    """A client's wish to cancel a call, under the id that the call has on the inside."""
    return to_json({"jsonrpc": "2.0", "method": _CANCELLED, "params": {**(message.params or {}), "requestId": inner}})


def _sent(scope: Scope, body: bytes, receive: Receive, *, complete: bool) -> tuple[Scope, Receive]:
    """A request as if it had come with this body, which is let go of as soon as it is handed on."""
    headers = MutableHeaders(raw=list(scope["headers"]))
    if "content-length" in headers and complete:
        headers["content-length"] = str(len(body))
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": not complete}]

    async def next_one() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": headers.raw}, next_one
