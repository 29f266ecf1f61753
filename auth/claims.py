"""Conversion between a principal and the SDK's access token, which tells the tools who is calling."""

from __future__ import annotations

from typing import Any, get_args

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from .principal import Method, Principal
from .roles import Role, Scope


def sdk_user(principal: Principal) -> AuthenticatedUser:
    """Convert a principal to the SDK's user; sessions of older protocols are bound to its organisation."""
    token = AccessToken(
        token="-",  # noqa: S106 -- the SDK requires a text, and the key must not get further
        client_id="api-key",
        scopes=sorted(principal.scopes),
        subject=principal.org_id,
        claims={
            "user": principal.user_id,
            "key": principal.key_id,
            "role": principal.role.value,
            "operator": principal.operator,
            "method": principal.method,
        },
    )
    return AuthenticatedUser(token)


def principal_of(token: AccessToken | None) -> Principal | None:
    """Return the principal that `sdk_user` put into a token; None if there is none, or something else made it."""
    if token is None or not token.subject:
        return None
    claims: dict[str, Any] = token.claims or {}
    if claims.get("method") not in get_args(Method):
        return None
    method: Method = claims["method"]
    return Principal(
        org_id=token.subject,
        user_id=str(claims["user"]),
        key_id=str(claims["key"]),
        scopes=frozenset(Scope(scope) for scope in token.scopes),
        role=Role(claims["role"]),
        operator=claims["operator"] is True,
        method=method,
    )
