"""Who a request comes from, once its credential was checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .roles import ALL_SCOPES, Role, Scope

Method = Literal["key", "jwt", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller.

    Attributes:
        org_id: The organisation that owns what the caller makes.
        user_id: The user who calls, or who created the key.
        key_id: The key's id, never the key; empty without one.
        scopes: What the credential is good for.
        role: What the user is in the organisation.
        operator: Whether the user runs this server: may see to invitations, quotas and users.
        method: How the caller proved to be who it is.
    """

    org_id: str
    user_id: str
    key_id: str = ""
    scopes: frozenset[Scope] = ALL_SCOPES
    role: Role = Role.OWNER
    operator: bool = False
    method: Method = "key"

    def may(self, scope: Scope) -> bool:
        """Whether the credential is good for that."""
        return any(scope in held.included for held in self.scopes)

    def lack(self, scope: Scope) -> str:
        """Why the caller may not do something that needs a scope; empty if it may."""
        if self.may(scope):
            return ""
        return f"This needs the scope {scope}; the credential has {', '.join(sorted(self.scopes)) or 'none'}"
