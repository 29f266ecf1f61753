"""How many sessions of older protocols one owner may hold, so that nobody takes every place that the server has.

The MCP SDK keeps the sessions and bounds their number in the whole; here they are only counted, by what passes through.
Clients seldom end their sessions. So the owner who is at the limit loses the session that rested longest, and only one
whose sessions are all in use is refused.
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
    """Counts the sessions of each owner over any number of endpoints.

    Args:
        most: Sessions that one owner may hold.
        idle_seconds: After this long without a request the SDK ends a session by itself.
    """

    def __init__(self, *, most: int, idle_seconds: float) -> None:
        self._most = most
        self._idle = idle_seconds
        # The least recently used session of an owner comes first.
        self._sessions: defaultdict[str, OrderedDict[str, _Session]] = defaultdict(OrderedDict)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The endpoint with its sessions counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            await self._serve(app, scope, receive, send)

        return counted

    def count(self, owner: str) -> int:
        """Sessions that the owner holds."""
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
            await problem(429, error, "Close clients that are not needed, or wait")(scope, receive, send)
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
        """The owner's sessions, without those that have expired meanwhile."""
        sessions = self._sessions[owner]
        earliest = anyio.current_time() - self._idle
        for session_id, session in list(sessions.items()):
            if session.in_use == 0 and session.last_use < earliest:
                del sessions[session_id]
        return sessions

    async def _make_room(self, owner: str, scope: Scope) -> bool:
        """End the session that rested longest if the owner has no place left; False if all are in use."""
        sessions = self._live(owner)
        while len(sessions) >= self._most:
            resting = next((item for item in sessions.items() if item[1].in_use == 0), None)
            if resting is None:
                return False
            session_id, session = resting
            del sessions[session_id]
            _log.info("session ended to make room", owner=owner)
            await _end(session.app, session_id, scope)
        return True


async def _end(app: ASGIApp, session_id: str, scope: Scope) -> None:
    """Let the SDK end a session, as if its client had asked for it."""
    kept = [(name, value) for name, value in scope["headers"] if name in {b"host", b"origin"}]
    accept = (b"accept", b"application/json, text/event-stream")
    headers = [*kept, (SESSION_HEADER.encode(), session_id.encode()), accept]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    await app({**scope, "method": "DELETE", "headers": headers}, receive, send)


def owner_of(scope: Scope) -> str | None:
    """The owner that a request's credential stands for; None without one."""
    user = scope.get("user")
    return user.access_token.subject if isinstance(user, AuthenticatedUser) else None


def _modern(headers: Headers) -> bool:
    """Whether the request speaks a protocol without sessions."""
    return headers.get(VERSION_HEADER, "") >= "2026"
