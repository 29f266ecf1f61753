"""Organisations, which own sandboxes and keys, and their members.

The members and their roles are part of the organisation's document, so each change is one compare-and-set: two owners
who demote each other at the same time cannot leave the organisation without an owner. The collection `members` is only
an index of a user's organisations: its entries are written before the membership, never deleted, and grant nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from storage.collection import Collection, CollectionSpec, Document, Index
from storage.errors import DuplicateKey
from storage.ids import new_id

from .changes import Change, Changes
from .clock import Clock, now_ms
from .edit import edit
from .errors import LastOwner, MemberMissing, OrganisationFull
from .names import clean_name
from .roles import Role

_BY_USER = Index(name="by_user", fields=("user_id", "_id"))
ORGANISATIONS = CollectionSpec(name="organisations")
MEMBERS = CollectionSpec(name="members", indexes=(_BY_USER,))

MOST_MEMBERS = 1000
_MOST_ORGANISATIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The membership of a user in an organisation; `created_ms` is in epoch milliseconds."""

    org_id: str
    user_id: str
    role: Role
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """An organisation: the owner of sandboxes and keys.

    Attributes:
        id: Id of the record.
        name: Display name.
        created_by: Id of the user who created it.
        created_ms: Time of creation, in epoch milliseconds.
        members: The members by user id.
        version: Version of the record.
    """

    id: str
    name: str
    created_by: str
    created_ms: int
    members: Mapping[str, Member] = field(default_factory=dict[str, Member])
    version: int = 1

    def with_role(self, member: Member) -> Organisation:
        """Return the organisation with a member added or changed.

        Raises:
            LastOwner: It would have no owner.
            OrganisationFull: It would have too many members.
        """
        changed = replace(self, members={**self.members, member.user_id: member})
        if len(changed.members) > MOST_MEMBERS:
            raise OrganisationFull(f"An organisation may have at most {MOST_MEMBERS} members: remove one first")
        return changed._owned()

    def without(self, user_id: str) -> Organisation:
        """Return the organisation without a member.

        Raises:
            LastOwner: It would have no owner.
        """
        return replace(self, members={key: it for key, it in self.members.items() if key != user_id})._owned()

    def _owned(self) -> Organisation:
        if not any(member.role is Role.OWNER for member in self.members.values()):
            raise LastOwner("The organisation must keep at least one owner: make another member an owner first")
        return self


class Organisations:
    """Stores organisations and memberships. Every method may raise `storage.errors.StoreError`."""

    def __init__(
        self, organisations: Collection, members: Collection, *, changes: Changes | None = None, clock: Clock = now_ms
    ) -> None:
        """Create the store over collections declared as `ORGANISATIONS` and `MEMBERS`.

        Args:
            organisations: The collection of the organisations.
            members: The index of a user's organisations.
            changes: Publishes removed and demoted members.
            clock: Epoch milliseconds.
        """
        self._organisations = organisations
        self._members = members
        self._changes = changes or Changes()
        self._clock = clock

    async def create(self, *, name: str, owner_id: str, org_id: str = "") -> Organisation:
        """Create an organisation with its owner as the only member.

        Args:
            name: Display name.
            owner_id: Id of the owner.
            org_id: Id of the record, if several servers may create the same one; empty for a new id.

        Raises:
            InvalidAccount: The name is invalid.
            DuplicateKey: An organisation with this id exists.
        """
        now, org_id = self._clock(), org_id or new_id()
        owner = Member(org_id=org_id, user_id=owner_id, role=Role.OWNER, created_ms=now)
        made = Organisation(
            id=org_id,
            name=clean_name("organisation name", name),
            created_by=owner_id,
            created_ms=now,
            members={owner_id: owner},
        )
        await self._point(org_id, owner_id)
        await self._organisations.insert(_document(made))
        return made

    async def get(self, org_id: str) -> Organisation | None:
        """Return the organisation with this id; None if it does not exist."""
        document = await self._organisations.get(org_id)
        return None if document is None else _organisation(document)

    async def of_user(self, user_id: str) -> list[Organisation]:
        """List the organisations of a user, oldest first, at most a thousand."""
        pointers = await self._members.find(_BY_USER, {"user_id": user_id}, limit=_MOST_ORGANISATIONS)
        found = [await self.get(pointer["org_id"]) for pointer in pointers]
        return [it for it in found if it is not None and user_id in it.members]

    async def add(self, org_id: str, user_id: str, role: Role) -> Member:
        """Add a user to an organisation; an existing member keeps the role.

        Raises:
            MemberMissing: The organisation does not exist.
            OrganisationFull: It has as many members as it may have.
        """
        await self._point(org_id, user_id)
        joining = Member(org_id=org_id, user_id=user_id, role=role, created_ms=self._clock())

        def join(organisation: Organisation) -> Organisation:
            return organisation if user_id in organisation.members else organisation.with_role(joining)

        return (await self._edit(org_id, join)).members[user_id]

    async def set_role(self, org_id: str, user_id: str, role: Role) -> Member:
        """Change the role of a member.

        Raises:
            MemberMissing: The organisation has no such member.
            LastOwner: The member is the only owner.
        """

        def become(organisation: Organisation) -> Organisation:
            return organisation.with_role(replace(_member(organisation, user_id), role=role))

        try:
            return (await self._edit(org_id, become)).members[user_id]
        finally:
            # Also after a failure, because the write may have been applied.
            self._changes.publish(Change(org_id=org_id, user_id=user_id))

    async def remove(self, org_id: str, user_id: str) -> None:
        """Remove a member; this invalidates the user's keys for the organisation.

        Raises:
            MemberMissing: The organisation has no such member.
            LastOwner: The member is the only owner.
        """

        def leave(organisation: Organisation) -> Organisation:
            return organisation.without(_member(organisation, user_id).user_id)

        try:
            await self._edit(org_id, leave)
        finally:
            self._changes.publish(Change(org_id=org_id, user_id=user_id))

    async def _edit(self, org_id: str, change: Callable[[Organisation], Organisation]) -> Organisation:
        def changed(document: Document) -> Document:
            before = _organisation(document)
            after = change(before)
            return document if after == before else _document(after)

        document = await edit(self._organisations, org_id, changed)
        if document is None:
            raise MemberMissing(f"organisation {org_id!r:.80} does not exist: list your organisations")
        return _organisation(document)

    async def _point(self, org_id: str, user_id: str) -> None:
        pointer = {
            "_id": f"{org_id}.{user_id}",
            "version": 1,
            "org_id": org_id,
            "user_id": user_id,
            "created_ms": self._clock(),
        }
        try:
            await self._members.insert(pointer)
        except DuplicateKey:
            return  # left by an earlier membership


def _member(organisation: Organisation, user_id: str) -> Member:
    member = organisation.members.get(user_id)
    if member is None:
        raise MemberMissing(f"user {user_id!r:.80} is not a member of this organisation: list its users")
    return member


def _document(organisation: Organisation) -> Document:
    return {
        "_id": organisation.id,
        "version": organisation.version,
        "name": organisation.name,
        "created_by": organisation.created_by,
        "created_ms": organisation.created_ms,
        "members": {
            member.user_id: {"role": member.role.value, "created_ms": member.created_ms}
            for member in organisation.members.values()
        },
    }


def _organisation(document: Document) -> Organisation:
    org_id: str = document["_id"]
    # Organisations that were created before members existed belong to their creator alone.
    first = {document["created_by"]: {"role": Role.OWNER.value, "created_ms": document["created_ms"]}}
    members = cast("dict[str, Document]", document.get("members", first))
    return Organisation(
        id=org_id,
        name=document["name"],
        created_by=document["created_by"],
        created_ms=document["created_ms"],
        members={
            user_id: Member(org_id=org_id, user_id=user_id, role=Role(it["role"]), created_ms=it["created_ms"])
            for user_id, it in members.items()
        },
        version=document["version"],
    )
