"""What somebody may do: the role of a member in an organisation, and the scopes of a key."""

from __future__ import annotations

from enum import StrEnum
from functools import cache


class Scope(StrEnum):
    """What a key is good for; each includes the ones before it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"

    @property
    def included(self) -> frozenset[Scope]:
        """This scope and those that it includes."""
        order = list(Scope)
        return frozenset(order[: order.index(self) + 1])


ALL_SCOPES = frozenset(Scope)


class Role(StrEnum):
    """What a member may do: an owner manages the organisation, a member uses it."""

    OWNER = "owner"
    MEMBER = "member"

    @property
    def scopes(self) -> frozenset[Scope]:
        """The most that a credential of such a member is worth, whatever scopes it was given."""
        return ALL_SCOPES if self is Role.OWNER else Scope.RUN.included


@cache  # asked with every call, and there are only eight answers
def expanded(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """Scopes together with all that they include."""
    return frozenset(inner for scope in scopes for inner in scope.included)
