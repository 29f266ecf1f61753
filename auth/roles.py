"""Permissions: the role of a member in an organisation, and the scopes of a key."""

from __future__ import annotations

from enum import StrEnum
from functools import cache


class Scope(StrEnum):
    """What a key may do; each scope includes the ones before it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"

    @property
    def included(self) -> frozenset[Scope]:
        """This scope and the ones that it includes."""
        order = list(Scope)
        return frozenset(order[: order.index(self) + 1])


ALL_SCOPES = frozenset(Scope)


class Role(StrEnum):
    """The role of a member: an owner manages the organisation, a member uses it."""

    OWNER = "owner"
    MEMBER = "member"

    @property
    def scopes(self) -> frozenset[Scope]:
        """The scopes that a credential of this role can have at most."""
        return ALL_SCOPES if self is Role.OWNER else Scope.RUN.included


@cache  # called for every request, with at most eight different arguments
def expanded(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """Return the scopes together with all that they include."""
    return frozenset(inner for scope in scopes for inner in scope.included)
