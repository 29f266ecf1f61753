"""Who may open a published port: everybody if it is public, else who has a key, a signed URL, or its cookie."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from auth.api_key import well_formed
from auth.tickets import is_ticket

from .cookies import own_cookie, own_cookies
from .headers import host_of, host_of_origin, web_scheme

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

    from vmm.calls.ports import PortCalls

    from .names import Place
    from .tokens import Tokens

PARAMETER = "casemate_token"
"""The parameter of a signed URL."""

REFUSED = (
    "This port is private, or there is no such port. Open the signed URL that publishing it returns; a program can "
    "send its API key in the header X-API-Key instead."
)
STALE = "This URL has expired or was revoked. Publish the port again for a new one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The right to open a port.

    Attributes:
        owner: The sandbox's owner.
        sandbox_id: The sandbox.
        until_s: When the right expires, in seconds since the epoch; 0 is never.
        cookie: A Set-Cookie header that gives a browser the same right; empty if it has one already.
        keyed: Whether the caller has a key.
        public: Whether the caller showed no right, because the port is public.
    """

    owner: str
    sandbox_id: str
    until_s: int = 0
    cookie: str = ""
    keyed: bool = False
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """No right to open a port; `text` says why."""

    text: str


class Access:
    """Checks tokens, cookies and publications. Keys are the gate's.

    Args:
        calls: Finds published ports.
        tokens: Checks signatures.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self, calls: PortCalls, tokens: Tokens, *, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._calls = calls
        self._tokens = tokens
        self._clock = clock

    async def check(self, scope: Scope, place: Place, token: str) -> Pass | Denied:
        """Check whether a request may open a port without a key.

        Args:
            scope: The request.
            place: The port.
            token: The token of its URL; empty if it has none.

        Raises:
            CasemateError: The sandbox's record cannot be read.
        """
        denied = Denied(text=STALE if token else REFUSED)
        found = await self._calls.find(place.sandbox_id, place.port) if place.sandbox_id else None
        if found is None:
            return denied
        sandbox, published = found
        owner, sandbox_id, now = sandbox.owner, sandbox.id, self._clock()
        signed_s = self._tokens.expiry_s("url", token, sandbox_id, published, now_ms=now)
        if signed_s:
            cookie = own_cookie(
                self._tokens.sign("cookie", sandbox_id, published, expires_s=signed_s),
                prefix=place.prefix,
                lasts_s=signed_s - now // 1000,
                secure=web_scheme(scope) == "https",
            )
            return Pass(owner=owner, sandbox_id=sandbox_id, until_s=signed_s, cookie=cookie)
        if published.is_public(now):
            return Pass(owner=owner, sandbox_id=sandbox_id, until_s=published.until_ms // 1000, public=True)
        if _is_own_page(scope):
            for value in own_cookies(scope["headers"]):
                kept_s = self._tokens.expiry_s("cookie", value, sandbox_id, published, now_ms=now)
                if kept_s:
                    return Pass(owner=owner, sandbox_id=sandbox_id, until_s=kept_s)
        return denied


def take_token(scope: Scope) -> str:
    """Remove the token from a request's query, so that neither logs nor the guest see it, and return it.

    A key or a ticket of this server that somebody put there is removed, too.
    """
    query: bytes = scope.get("query_string", b"")
    kept: list[bytes] = []
    found = ""
    for pair in query.split(b"&"):
        name, value = (unquote_to_bytes(part).decode("latin-1").strip() for part in pair.partition(b"=")[::2])
        if name == PARAMETER:
            found = value
        elif not (well_formed(value) or is_ticket(value)):
            kept.append(pair)
    scope["query_string"] = b"&".join(kept)
    return found


def _is_own_page(scope: Scope) -> bool:
    """Return whether a cookie may count: not if the page of another host makes a browser send it.

    Other sandboxes' pages are on the same site, where a domain is the operator's, so that browsers send cookies along.
    """
    headers: dict[bytes, bytes] = {name.lower(): value for name, value in scope["headers"]}
    if b"origin" in headers and host_of_origin(headers[b"origin"]) != host_of(scope).lower():
        return False
    if headers.get(b"sec-fetch-site", b"none") in {b"none", b"same-origin"}:
        return True
    # A link to the page, or its address in a redirect, is how people come to it.
    top = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest", b"document") == b"document"
    return top and scope.get("method") in {"GET", "HEAD"}
