"""What somebody may do: the role of a member in an organisation, and the scopes of a key."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a member may do: an owner manages the organisation, a member uses it."""

    OWNER = "owner"
    MEMBER = "member"


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
