"""Declarations of routes, and what every route shares: scope checks, audit facts, errors, methods.

A route leaves these values in `scope["state"]`, for the audit and the metrics around it:

- `action`: the endpoint's action, from a bounded set of names;
- `sandbox`: the id or name in the path, if there is one;
- `refusal`: why the request was refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket

from auth.principal import Principal
from auth.roles import Role, Scope

from ..http.problem import problem
from .errors import refusal_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starlette.types import Message, Receive, Send
    from starlette.types import Scope as Connection

Handler = Callable[[Request, Principal], Awaitable[Response]]
SocketHandler = Callable[[WebSocket, Principal], Awaitable[None]]

NOBODY = Principal(org_id="", user_id="", scopes=frozenset(), role=Role.MEMBER)
"""The caller of an open endpoint who sent no credential."""

_UNREACHABLE = {502, 504}
_log = structlog.stdlib.get_logger("casemate.rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path.

    Attributes:
        method: The HTTP method; HEAD is served by the handler of GET.
        path: The path, with parameters in braces; `{id}` is a sandbox's id or name.
        handler: Returns the answer; exceptions become error answers.
        scope: The scope that the credential needs; None for any credential.
        action: Name of the call in audit and metrics, such as `sandbox.exec`.
        open: Whether no credential is needed; the caller is then NOBODY, unless a credential was sent.
        failure: What an error says first if the guest cannot be reached; the reason is then in the details.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    action: str
    open: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketEndpoint:
    """A WebSocket.

    Attributes:
        path: The path, as of an Endpoint.
        handler: Accepts the socket and serves it; exceptions become error answers, or close the socket.
        scope: The scope that the credential needs.
        action: Name of the call in audit and metrics.
    """

    path: str
    handler: SocketHandler
    scope: Scope
    action: str


def routes(endpoints: Iterable[Endpoint], *, sockets: Collection[str] = ()) -> list[Route]:
    """Build one route per path, which answers methods without an endpoint with 405 and an Allow header.

    Args:
        endpoints: The endpoints.
        sockets: Paths of WebSockets, on which a plain GET is answered with 426.
    """
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    for path in sockets:
        by_path.setdefault(path, {})
    return [Route(path, _Resource(methods, socket=path in sockets)) for path, methods in by_path.items()]


def admit(who: Principal, scope: Scope | None) -> None:
    """Check that a caller's credential has a scope; None accepts any credential.

    Raises:
        HTTPException: There is no credential (401), or it lacks the scope (403).
    """
    if who is NOBODY:
        raise HTTPException(401, "authentication required (X-API-Key or Bearer token)")
    missing = "" if scope is None else who.lack(scope)
    if missing:
        raise HTTPException(403, missing)


class _Resource:
    """All methods of one path."""

    def __init__(self, endpoints: dict[str, Endpoint], *, socket: bool = False) -> None:
        self._endpoints = endpoints
        self._socket = socket and "GET" not in endpoints
        heads = ("HEAD",) if "GET" in endpoints else ("GET",) if socket else ()
        self._allow = ", ".join(sorted((*endpoints, *heads, "OPTIONS")))

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        endpoint = self._endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is not None:
            await _serve(endpoint, scope, receive, send)
            return
        if method == "OPTIONS":
            answer = Response(status_code=204)
        elif method == "GET" and self._socket:
            answer = problem(426, "This is a WebSocket", "Open it with a WebSocket client: ws:// or wss://")
            answer.headers.update({"upgrade": "websocket", "connection": "upgrade"})
        else:
            answer = problem(405, f"{method[:20]} is not allowed on this path", f"Use {self._allow}")
        answer.headers["allow"] = self._allow
        await answer(scope, receive, send)


async def _serve(endpoint: Endpoint, scope: Connection, receive: Receive, send: Send) -> None:
    state = scope.setdefault("state", {})
    state["action"] = endpoint.action
    if "id" in scope["path_params"] and "/sandboxes/{id}" in endpoint.path:
        state["sandbox"] = scope["path_params"]["id"]
    begun = False

    async def watch(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    who: Principal = state.get("principal", NOBODY)
    try:
        if not endpoint.open:
            admit(who, endpoint.scope)
        answer = await endpoint.handler(Request(scope, receive), who)
        await answer(scope, receive, watch)
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        state["refusal"] = refusal.error
        if endpoint.failure and refusal.status in _UNREACHABLE:
            refusal = refusal.worded(endpoint.failure)
        if begun:
            # The status is sent already: breaking the answer off shows the client that it is incomplete.
            _log.warning("answer aborted", action=endpoint.action, reason=state["refusal"])
        else:
            await refusal.answer()(scope, receive, send)
