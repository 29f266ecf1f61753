"""Types of users, members, keys, invitations and quotas in answers."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from auth.roles import Role, Scope
from mcp_server.shapes import Timestamp
from vmm.sandboxes.limits import OwnerLimits

ScopeName = Literal["read", "run", "admin", "*"]


class UserObject(TypedDict):
    """A user."""

    id: str
    name: str
    email: str
    imageUrl: str
    createdAt: Timestamp


class MemberObject(UserObject):
    """A member of the organisation."""

    role: Role


class RoleObject(TypedDict):
    """A member's new role."""

    id: str
    role: Role


class OperatorUser(UserObject):
    """A user as the operator sees it."""

    operator: bool


class OrganisationObject(TypedDict):
    """An organisation."""

    id: str
    name: str


class MembershipObject(OrganisationObject):
    """An organisation of the caller's."""

    role: Role


class AccountObject(UserObject):
    """The caller, its organisations, and what its credential allows."""

    orgs: list[MembershipObject]
    orgId: str
    role: Role
    scopes: list[Scope]
    operator: bool
    method: Annotated[str, Field(description="How the caller authenticated: key, jwt or local.")]


class KeyTimes(TypedDict, total=False):
    """The times of a key that are known."""

    expiresAt: Timestamp
    lastUsedAt: Timestamp
    updatedAt: Timestamp


class KeyObject(KeyTimes):
    """A key, without its secret."""

    id: str
    orgId: str
    name: str
    maskedKey: str
    scopes: list[ScopeName]
    createdBy: str
    createdAt: Timestamp
    isActive: bool


class NewKeyObject(TypedDict):
    """A new key, with its secret."""

    plainKey: Annotated[str, Field(description="The secret, which no other answer shows.")]
    keyId: str
    keyName: str
    orgId: str
    createdAt: Timestamp
    expiresIn: str
    scopes: list[ScopeName]
    expiresAt: NotRequired[Timestamp]


class Registered(TypedDict):
    """A new user."""

    user: UserObject
    org: OrganisationObject
    apiKey: NewKeyObject


class TicketObject(TypedDict):
    """A one-time credential for a WebSocket."""

    ticket: Annotated[str, Field(description="The ticket, which no other answer shows.")]
    expiresAt: Timestamp
    expiresInSeconds: int


class InvitationObject(TypedDict):
    """An invitation, without its code."""

    id: str
    email: str
    orgId: str
    role: Role
    createdBy: str
    createdAt: Timestamp
    expiresAt: Timestamp
    used: bool
    usedBy: NotRequired[str]
    usedAt: NotRequired[Timestamp]


class NewInvitation(InvitationObject):
    """A new invitation."""

    code: Annotated[str, Field(description="The code, which no other answer shows.")]


class Used(TypedDict):
    """What an organisation uses; memory and disk in MiB."""

    sandboxes: int
    cpus: int
    mem: int
    disk: int
    snapshots: int
    volumes: int
    volume_disk: int


class QuotaObject(TypedDict):
    """Limits and usage of an organisation; memory and disk in MiB."""

    orgId: str
    limits: OwnerLimits
    own: Annotated[dict[str, int], Field(description="The limits that differ from the server's.")]
    used: Used


Limit = Annotated[int, Field(ge=0, le=2**40)]


@with_config(extra="forbid")
class QuotaChanges(TypedDict, total=False):
    """New limits, of which null restores the server's default; memory and disk in MiB."""

    sandboxes: Limit | None
    cpus: Limit | None
    mem: Limit | None
    disk: Limit | None
    snapshots: Limit | None
    volumes: Limit | None
    volume_disk: Limit | None
