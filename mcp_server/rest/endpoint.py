"""How a route is declared, and what happens around every handler: scope, audit facts, errors, methods.

What it leaves in `scope["state"]`, for the audit and the metrics outside of it:

- `action`: the endpoint's, a name out of a bounded set;
- `sandbox`: the id or name in the path, where there is one;
- `refusal`: why a request was refused, as its answer says it.
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

from auth.principal import Principal
from auth.roles import Role, Scope

from ..http.problem import problem
from .errors import refusal_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Message, Receive, Send
    from starlette.types import Scope as Connection

Handler = Callable[[Request, Principal], Awaitable[Response]]

NOBODY = Principal(org_id="", user_id="", scopes=frozenset(), role=Role.MEMBER)
"""Who calls an open endpoint without having been asked for a credential."""

_log = structlog.stdlib.get_logger("casemate.rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path.

    Attributes:
        method: Such as GET; HEAD goes to GET's handler.
        path: With parameters in braces; `{id}` is a sandbox's id or name.
        handler: Gives the answer; what it raises is answered too.
        scope: What the credential must be good for; None if any will do.
        action: What the call is named in audit and metrics, such as `sandbox.exec`.
        open: Whether it needs no credential; who calls is NOBODY then, unless somebody is known.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    action: str
    open: bool = False


def routes(endpoints: Iterable[Endpoint]) -> list[Route]:
    """Routes for endpoints, one for each path, so that a method that none of them has is answered with Allow."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _Resource(methods)) for path, methods in by_path.items()]


def admit(who: Principal, scope: Scope | None) -> None:
    """Let a caller pass whose credential is good for a scope; None is for any credential.

    Raises:
        HTTPException: There is no credential (401), or it is not good for that (403).
    """
    if who is NOBODY:
        raise HTTPException(401, "authentication required (X-API-Key or Bearer token)")
    missing = "" if scope is None else who.lack(scope)
    if missing:
        raise HTTPException(403, missing)


class _Resource:
    """All methods of one path."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints
        heads = ("HEAD",) if "GET" in endpoints else ()
        self._allow = ", ".join(sorted((*endpoints, *heads, "OPTIONS")))

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        endpoint = self._endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is not None:
            await _serve(endpoint, scope, receive, send)
            return
        if method == "OPTIONS":
            answer = Response(status_code=204)
        else:
            answer = problem(405, f"{method[:20]} is no method of this path", f"Use {self._allow}")
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
        if begun:
            # Too late for a status: the answer breaks off, and the client sees that it is not whole.
            _log.warning("answer broken off", action=endpoint.action, reason=state["refusal"])
        else:
            await refusal.answer()(scope, receive, send)
