"""The ASGI application for published ports: who may come in, and the way to the guest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import structlog
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse

from auth.address import address_of
from auth.api_key import well_formed
from auth.roles import Scope as Power
from storage.errors import StoreError
from vmm.errors import CasemateError

from .access import Denied, Pass, take_token
from .answers import AGAIN, POLICY_VIOLATION, ClientLeft, GuestFailed, answer, failure_of
from .headers import host_of, web_scheme
from .proxy import HEAD_S, Exchange
from .visits import TooManyVisits
from .websocket import SocketExchange

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from auth.principal import Principal

    from .access import Access
    from .dial import Dial
    from .headers import Header
    from .names import Place
    from .visits import Visit, Visits

Recognise = Callable[[str, str], Awaitable[bool]]
"""Returns whether a bearer token, sent from an address, is a credential of this server, which a guest must not see."""

STALLED_S = 3600.0
"""Seconds after which a client that takes nothing has left: it must not keep a sandbox awake."""

_INTERNAL_ERROR = 1011
_REVOKED = "the port is no longer published"
_log = structlog.stdlib.get_logger("casemate.ports")


class Visitors:
    """Serves the ports of all sandboxes. The place of each request is in `scope["state"]["place"]`.

    Args:
        access: Checks tokens, cookies and publications.
        dial: Connects to ports.
        visits: The open connections.
        gate: Wraps an application so that only requests with a valid credential reach it.
        recognise: Whether a bearer token is a credential of this server.
        find: Finds an owner's published port by the sandbox's id or name.
        sandboxed: Whether pages by path must not have the API's origin, because it needs no key.
        head_s: How long a server in a sandbox may take for the head of its answer.
        stalled_s: How long a client may take nothing, until it counts as gone.
    """

    def __init__(
        self,
        access: Access,
        dial: Dial,
        visits: Visits,
        *,
        gate: Callable[[ASGIApp], ASGIApp],
        recognise: Recognise,
        find: Callable[[str, str, int], Awaitable[str]],
        sandboxed: bool = False,
        head_s: float = HEAD_S,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._access = access
        self._dial = dial
        self._visits = visits
        self._behind_gate = gate(self._with_key)
        self._recognise = recognise
        self._find = find
        self._sandboxed = sandboxed
        self._head_s = head_s
        self._stalled_s = stalled_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""

        async def send_soon(message: Message) -> None:
            try:
                with anyio.fail_after(self._stalled_s):
                    await send(message)
            except OSError as error:  # also if it takes nothing any more
                raise ClientLeft from error

        with suppress(ClientLeft):
            await self._serve(scope, receive, send_soon)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        place: Place = scope["state"]["place"]
        token = take_token(scope)
        headers = {name.lower(): value for name, value in scope["headers"]}
        if headers.get(b"x-api-key", b"").strip():
            # The gate would refuse a second credential, and the application may want one of its own.
            scope["state"]["set_aside"] = _take(scope, b"authorization")
            await self._behind_gate(scope, receive, send)
            return
        bearer = _bearer(headers.get(b"authorization", b""))
        try:
            found = Denied(text="") if well_formed(bearer) else await self._access.check(scope, place, token)
        except (CasemateError, StoreError) as error:
            _log.error("published port not looked up", error=str(error))
            await self._answer(503, AGAIN, scope, receive, send)
            return
        if isinstance(found, Pass):
            await self._give_back(scope, _take(scope, b"authorization"))
            if found.cookie and scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}:
                await _let_in(found.cookie, place, scope, receive, send)
            else:
                await self._visit(found, place, scope, receive, send)
        elif bearer:
            await self._behind_gate(scope, receive, send)
        else:
            await self._answer(401, found.text, scope, receive, send)

    async def _give_back(self, scope: Scope, authorization: list[Header]) -> None:
        """Put an Authorization header that is the application's own back: no credential of ours, and sent only once."""
        if len(authorization) != 1:
            return
        bearer = _bearer(authorization[0][1])
        if not bearer or not await self._recognise(bearer, address_of(scope)):
            scope["headers"] = [*scope["headers"], *authorization]

    async def _with_key(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a caller with a valid credential: the owner of the sandbox, if the credential may run things there."""
        place: Place = scope["state"]["place"]
        who: Principal = scope["state"]["principal"]
        missing = who.lack(Power.RUN)
        if missing:
            await self._answer(403, missing, scope, receive, send)
            return
        try:
            sandbox_id = await self._find(who.org_id, place.ref, place.port)
        except (CasemateError, StoreError) as error:
            status = failure_of(error, place.port).status if isinstance(error, CasemateError) else 503
            await self._answer(status, str(error), scope, receive, send)
            return
        await self._give_back(scope, scope["state"].pop("set_aside", []))
        await self._visit(Pass(owner=who.org_id, sandbox_id=sandbox_id, keyed=True), place, scope, receive, send)

    async def _visit(self, right: Pass, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # the handshake
        begun = _Begun(send)
        failed: tuple[int, str] | None = None
        closing = _INTERNAL_ERROR, "the connection to the sandbox broke"
        try:
            with self._visits.opened(right.sandbox_id, place.port, until_s=right.until_s, public=right.public) as visit:
                await self._pass_on(right, place, scope, receive, begun.send)
        except TooManyVisits:
            text = "The sandbox has too many open connections. Close some, or try again later."
            await answer(503, text, scope, receive, send)
            return
        except GuestFailed as error:
            failed = error.status, error.text
            if error.internal and not right.keyed:
                _log.warning("published port not opened", error=error.text)
                failed = error.status, AGAIN
        else:
            if _is_over(visit):
                failed = 401, f"This connection was ended: {_REVOKED}"
                closing = POLICY_VIOLATION, _REVOKED
        if failed is not None and not begun.yes:
            await answer(*failed, scope, receive, send)
        elif failed is not None and scope["type"] == "websocket" and not begun.closed:
            await send({"type": "websocket.close", "code": closing[0], "reason": closing[1]})

    async def _pass_on(self, right: Pass, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._dial(right.owner, right.sandbox_id, place.port) as stream:
                if scope["type"] == "websocket":
                    await SocketExchange(stream, place, head_s=self._head_s).run(scope, receive, send)
                else:
                    sandboxed = self._sandboxed and bool(place.prefix)
                    exchange = Exchange(stream, place, head_s=self._head_s, sandboxed=sandboxed)
                    await exchange.run(scope, receive, send)
        except CasemateError as error:
            raise failure_of(error, place.port) from None
        except StoreError as error:
            raise GuestFailed(
                503, f"Port {place.port} of the sandbox cannot be opened now: {error}", internal=True
            ) from None

    @staticmethod
    async def _answer(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer before the handshake of a WebSocket was received."""
        scope["state"]["refusal"] = text
        if scope["type"] == "websocket":
            await receive()
        await answer(status, text, scope, receive, send)


class _Begun:
    """Knows whether an answer has begun, and whether a WebSocket is closed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.yes = False
        self.closed = False

    async def send(self, message: Message) -> None:
        self.yes = True
        self.closed = self.closed or message["type"] == "websocket.close"
        await self._send(message)


async def _let_in(cookie: str, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
    """Turn the token of a URL into a cookie, and send the browser to the same address without the token."""
    path = place.prefix.encode() + (place.path or b"/")
    query: bytes = scope["query_string"]
    # With its host: a path of the client's that begins with two slashes would be another one's.
    url = (
        f"{web_scheme(scope)}://{host_of(scope)}{path.decode('latin-1')}{'?' if query else ''}{query.decode('latin-1')}"
    )
    headers = {"set-cookie": cookie, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    await RedirectResponse(url, status_code=303, headers=headers)(scope, receive, send)


def _is_over(visit: Visit) -> bool:
    return visit.revoked or visit.scope.cancelled_caught


def _take(scope: Scope, name: bytes) -> list[Header]:
    """Remove the headers of a name from a request, and return them."""
    headers: list[Header] = scope["headers"]
    scope["headers"] = [pair for pair in headers if pair[0].lower() != name]
    return [pair for pair in headers if pair[0].lower() == name]


def _bearer(authorization: bytes) -> str:
    scheme, _, token = authorization.decode("latin-1").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def without_slash(scope: Scope, place: Place) -> str:
    """Return where a request for a port's path without the slash at its end belongs, as a path with its query."""
    query = HTTPConnection(scope).url.query
    return f"{place.prefix}/{'?' if query else ''}{query}"
