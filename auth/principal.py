"""The principal: the authenticated caller of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .roles import ALL_SCOPES, Role, Scope

Method = Literal["key", "jwt", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller.

    Attributes:
        org_id: The organisation that owns what the caller creates.
        user_id: The user who calls, or who created the key.
        key_id: The key's id, never the key; empty if there is none.
        scopes: What the credential may do.
        role: The user's role in the organisation.
        operator: Whether the user operates this server: manages invitations, quotas and users.
        method: How the caller authenticated.
    """

    org_id: str
    user_id: str
    key_id: str = ""
    scopes: frozenset[Scope] = ALL_SCOPES
    role: Role = Role.OWNER
    operator: bool = False
    method: Method = "key"

    def may(self, scope: Scope) -> bool:
        """Return whether the credential has this scope, directly or through a wider one."""
        return any(scope in held.included for held in self.scopes)

    def lack(self, scope: Scope) -> str:
        """Explain why the caller may not do something that needs a scope; empty if it may."""
        if self.may(scope):
            return ""
        return f"This needs the scope {scope}; the credential has {', '.join(sorted(self.scopes)) or 'none'}"
