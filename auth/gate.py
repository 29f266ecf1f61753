"""The authentication gate: ASGI middleware that lets only requests with a valid credential through.

It puts the principal into `scope["state"]`, with what is known of its credential (`verified`), and into `scope["user"]`
in the form that the MCP SDK uses to bind the sessions of older protocols to their owner. A refusal puts its reason into
`scope["state"]["refusal"]`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from storage.errors import StoreError

from .address import address_of
from .claims import sdk_user
from .credentials import take
from .refusal import TOO_MANY, Refused, send_refusal, unavailable
from .tickets import LIFETIME_S
from .watch import ENDED

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .authenticator import Authenticator, Verified
    from .limits import Limits
    from .refusal import Header
    from .tickets import Tickets
    from .watch import Watch

    OnLater = Callable[[Scope, Receive, Send, Refused, list[Header]], Awaitable[None]]


class Gate:
    """Wraps an ASGI application. Requests and WebSockets need a credential; other events (lifespan) pass."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        limits: Limits,
        watch: Watch,
        *,
        tickets: Tickets | None = None,
        query_keys: bool = False,
        on_later: OnLater | None = None,
    ) -> None:
        """Put a gate in front of an application.

        Args:
            app: The application behind the gate.
            authenticator: Checks credentials.
            limits: The rate limits; shared by all gates of a server.
            watch: Ends open streams when their credential is revoked; shared by all gates of a server.
            tickets: The tickets of a server, shared by all of its gates; None accepts none.
            query_keys: Whether a key in the URL counts for all requests, and not for WebSockets alone.
            on_later: Answers, in the application's own format, requests that may succeed later: over their rate limit,
                or with a credential that cannot be checked now. It gets the headers of the answer, including
                Retry-After.
        """
        self._app = app
        self._authenticator = authenticator
        self._limits = limits
        self._watch = watch
        self._tickets = tickets
        self._query_keys = query_keys
        self._on_later = on_later

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its principal."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            verified = await self._verified(scope)
        except Refused as refusal:
            await self._refuse(refusal, scope, receive, send, [])
            return
        scope["state"]["principal"] = verified.principal
        scope["state"]["verified"] = verified
        scope["user"] = sdk_user(verified.principal)
        allowance = await self._limits.spend(verified.principal)
        if not allowance.passed:
            refusal = _over(allowance.limit, allowance.reset_s)
            await self._refuse(refusal, scope, receive, send, allowance.headers())
            return
        with self._watch.opened(scope, send, verified, allowance.headers()) as stream:
            with stream.cancel:
                await self._app(scope, receive, stream.send)
            if stream.ended:
                if stream.begun:
                    scope["state"]["refusal"] = "ended"
                    await stream.finish()
                else:
                    refusal = Refused(status=401, reason="ended", error=ENDED, details="Use another credential")
                    await self._refuse(refusal, scope, receive, send, [])

    async def _verified(self, scope: Scope) -> Verified:
        scope.setdefault("state", {})
        credential = take(scope, query_keys=self._query_keys)
        address = address_of(scope)
        if credential.ticket:
            return await self._by_ticket(credential.ticket, scope["path"], address)
        if credential.text:
            # Before the store is read: a flood of guessed keys costs it nothing, and known callers are not affected.
            wait_s = await self._limits.blocked_s(address)
            if wait_s and not self._authenticator.recently_valid(credential):
                raise Refused(
                    status=429,
                    reason="too many refusals",
                    error="too many refused credentials from this address",
                    details=f"Wait {wait_s} s, then send a valid credential",
                    retry_after_s=wait_s,
                )
        try:
            return await self._authenticator.authenticate(credential)
        except Refused as refusal:
            if credential.text and refusal.status == 401:
                await self._limits.refused(address)
            raise

    async def _by_ticket(self, ticket: str, path: str, address: str) -> Verified:
        verified = self._tickets.redeem(ticket, path) if self._tickets is not None else None
        try:
            if verified is not None and await self._authenticator.still_valid(verified):
                return verified
        except StoreError:
            raise unavailable("tickets cannot be checked now") from None
        await self._limits.refused(address)
        raise Refused(
            status=401,
            reason="bad ticket",
            error="invalid ticket",
            details=f"A ticket works once, within {LIFETIME_S} s, and for the path it was made for: create a new one",
        )

    async def _refuse(
        self, refusal: Refused, scope: Scope, receive: Receive, send: Send, headers: list[Header]
    ) -> None:
        scope["state"]["refusal"] = refusal.reason
        if refusal.retry_after_s and self._on_later is not None and scope["type"] == "http":
            all_headers = [*headers, (b"retry-after", b"%d" % refusal.retry_after_s)]
            await self._on_later(scope, receive, send, refusal, all_headers)
            return
        await send_refusal(refusal, scope, receive, send, headers)


def _over(limit: int, wait_s: int) -> Refused:
    return Refused(
        status=429,
        reason=TOO_MANY,
        error=f"more than {limit} requests in a window",
        details=f"Wait {wait_s} s, then try again",
        retry_after_s=wait_s,
    )
