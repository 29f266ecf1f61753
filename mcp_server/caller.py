"""Who calls: read from what the authentication put on the request, never from headers or arguments."""

from __future__ import annotations

from dataclasses import dataclass

from mcp.server.auth.middleware.auth_context import get_access_token

from vmm.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The principal behind a call.

    Attributes:
        owner: The organisation, which owns what the call makes.
        user: The user whose key it was; empty if unknown.
    """

    owner: str
    user: str


def caller() -> Caller:
    """The principal of the request that this task works for.

    Raises:
        InvalidInput: Nobody is authenticated, which only a server without its middleware can bring about.
    """
    token = get_access_token()
    if token is None or not token.subject:
        raise InvalidInput("The call carries no identity", hint="Send an API key in the X-API-Key header")
    claims = token.claims or {}
    return Caller(owner=token.subject, user=str(claims.get("user", "")))
