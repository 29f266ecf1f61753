"""A cap on the MCP sessions of one owner, so that nobody uses up the sessions of the whole server.

The MCP SDK keeps the sessions of the older protocols and limits their total number; this middleware counts them per
owner. Clients seldom end their sessions, so an owner at the limit loses the session that has been idle longest, and is
refused only if all sessions are in use.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import structlog
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.datastructures import Headers

from .problem import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
_log = structlog.stdlib.get_logger("casemate.sessions")


@dataclass(slots=True)
class _Session:
    app: ASGIApp
    in_use: int
    last_use: float


class SessionCap:
    """Counts the sessions of each owner, across any number of endpoints.

    Args:
        most: Largest number of sessions of one owner.
        idle_seconds: The SDK ends a session after this long without a request.
    """

    def __init__(self, *, most: int, idle_seconds: float) -> None:
        self._most = most
        self._idle = idle_seconds
        # The least recently used session of an owner comes first.
        self._sessions: defaultdict[str, OrderedDict[str, _Session]] = defaultdict(OrderedDict)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap an endpoint to count its sessions."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            await self._serve(app, scope, receive, send)

        return counted

    def count(self, owner: str) -> int:
        """Return the number of the owner's sessions."""
        return len(self._live(owner))

    async def _serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        owner = owner_of(scope)
        headers = Headers(scope=scope)
        session_id = headers.get(SESSION_HEADER)
        if owner is None:
            await app(scope, receive, send)
        elif session_id is not None:
            await self._serve_known(owner, session_id, app, scope, receive, send)
        elif scope["method"] == "POST" and not _modern(headers) and not await self._make_room(owner, scope):
            error = f"All {self._most} sessions of this key's owner are in use"
            await problem(429, error, "Close clients that you do not need, or wait")(scope, receive, send)
        else:
            await self._serve_opening(owner, app, scope, receive, send)

    async def _serve_known(
        self, owner: str, session_id: str, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        sessions = self._sessions[owner]
        session = sessions.get(session_id)
        if session is None:
            await app(scope, receive, send)
            return
        gone = False

        async def watch(message: Message) -> None:
            nonlocal gone
            if message["type"] == "http.response.start":
                gone = message["status"] == 404 or (scope["method"] == "DELETE" and message["status"] < 300)
            await send(message)

        session.in_use += 1
        sessions.move_to_end(session_id)
        try:
            await app(scope, receive, watch)
        finally:
            session.in_use -= 1
            session.last_use = anyio.current_time()
            if gone:
                sessions.pop(session_id, None)

    async def _serve_opening(self, owner: str, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        opened: _Session | None = None

        async def watch(message: Message) -> None:
            nonlocal opened
            if message["type"] == "http.response.start" and message["status"] < 400:
                session_id = Headers(raw=message.get("headers", [])).get(SESSION_HEADER)
                if session_id is not None:
                    opened = _Session(app, in_use=1, last_use=anyio.current_time())
                    self._sessions[owner][session_id] = opened
            await send(message)

        try:
            await app(scope, receive, watch)
        finally:
            if opened is not None:
                opened.in_use -= 1
                opened.last_use = anyio.current_time()

    def _live(self, owner: str) -> OrderedDict[str, _Session]:
        """Return the owner's sessions, after removing those that have expired."""
        sessions = self._sessions[owner]
        earliest = anyio.current_time() - self._idle
        for session_id, session in list(sessions.items()):
            if session.in_use == 0 and session.last_use < earliest:
                del sessions[session_id]
        return sessions

    async def _make_room(self, owner: str, scope: Scope) -> bool:
        """End the longest idle session if the owner is at the limit; False if all are in use."""
        sessions = self._live(owner)
        while len(sessions) >= self._most:
            idle = next((item for item in sessions.items() if item[1].in_use == 0), None)
            if idle is None:
                return False
            session_id, session = idle
            del sessions[session_id]
            _log.info("session ended to make room", owner=owner)
            await _end(session.app, session_id, scope)
        return True


async def _end(app: ASGIApp, session_id: str, scope: Scope) -> None:
    """Make the SDK end a session, as if its client had sent a DELETE."""
    kept = [(name, value) for name, value in scope["headers"] if name in {b"host", b"origin"}]
    accept = (b"accept", b"application/json, text/event-stream")
    headers = [*kept, (SESSION_HEADER.encode(), session_id.encode()), accept]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    await app({**scope, "method": "DELETE", "headers": headers}, receive, send)


def owner_of(scope: Scope) -> str | None:
    """Return the owner of a request's credential; None without one."""
    user = scope.get("user")
    return user.access_token.subject if isinstance(user, AuthenticatedUser) else None


def _modern(headers: Headers) -> bool:
    """Whether the request uses a protocol version without sessions."""
    return headers.get(VERSION_HEADER, "") >= "2026"
