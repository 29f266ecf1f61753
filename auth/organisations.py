"""Organisations and their members: what owns sandboxes and keys, and who may act for it.

Who belongs to an organisation, and as what, stands in the organisation's own document, so that each change of it is
one compare-and-set: two owners who demote each other at once cannot leave it without one. The collection `members` only
finds a user's organisations: an entry is made before the membership, stays for good, and counts for nothing alone.
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
    """That a user belongs to an organisation, and as what; `created_ms` is epoch milliseconds."""

    org_id: str
    user_id: str
    role: Role
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """What owns sandboxes and keys.

    Attributes:
        id: Id of the record.
        name: As its members see it.
        created_by: Id of the user who made it.
        created_ms: When, in epoch milliseconds.
        members: Who belongs to it, by user id.
        version: Version of the record.
    """

    id: str
    name: str
    created_by: str
    created_ms: int
    members: Mapping[str, Member] = field(default_factory=dict[str, Member])
    version: int = 1

    def with_role(self, member: Member) -> Organisation:
        """The organisation with that member in that role.

        Raises:
            LastOwner: It would be without an owner.
            OrganisationFull: It has no room.
        """
        changed = replace(self, members={**self.members, member.user_id: member})
        if len(changed.members) > MOST_MEMBERS:
            raise OrganisationFull(f"The organisation has {MOST_MEMBERS} members, and may have no more: remove one")
        return changed._owned()

    def without(self, user_id: str) -> Organisation:
        """The organisation without that member.

        Raises:
            LastOwner: It would be without an owner.
        """
        return replace(self, members={key: it for key, it in self.members.items() if key != user_id})._owned()

    def _owned(self) -> Organisation:
        if not any(member.role is Role.OWNER for member in self.members.values()):
            raise LastOwner("The organisation would be left without an owner: make somebody else an owner first")
        return self


class Organisations:
    """Keeps organisations and memberships. Every method may raise `storage.errors.StoreError`."""

    def __init__(
        self, organisations: Collection, members: Collection, *, changes: Changes | None = None, clock: Clock = now_ms
    ) -> None:
        """Organisations on collections declared as `ORGANISATIONS` and `MEMBERS`.

        Args:
            organisations: Where they are kept.
            members: Where a user's organisations are found.
            changes: Told of members who were removed or demoted.
            clock: Epoch milliseconds.
        """
        self._organisations = organisations
        self._members = members
        self._changes = changes or Changes()
        self._clock = clock

    async def create(self, *, name: str, owner_id: str, org_id: str = "") -> Organisation:
        """Add an organisation with its owner as the only member.

        Args:
            name: As its members see it.
            owner_id: The owner's id.
            org_id: Of the record, where several may try to make the same one; a new id without it.

        Raises:
            InvalidAccount: The name.
            DuplicateKey: There is one of that id.
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
        """The organisation of that id."""
        document = await self._organisations.get(org_id)
        return None if document is None else _organisation(document)

    async def of_user(self, user_id: str) -> list[Organisation]:
        """The organisations that a user belongs to, oldest first; a thousand are looked at."""
        pointers = await self._members.find(_BY_USER, {"user_id": user_id}, limit=_MOST_ORGANISATIONS)
        found = [await self.get(pointer["org_id"]) for pointer in pointers]
        return [it for it in found if it is not None and user_id in it.members]

    async def add(self, org_id: str, user_id: str, role: Role) -> Member:
        """Let a user belong to an organisation; one who does already keeps the role.

        Raises:
            MemberMissing: There is no such organisation.
            OrganisationFull: It has no room.
        """
        await self._point(org_id, user_id)
        joining = Member(org_id=org_id, user_id=user_id, role=role, created_ms=self._clock())

        def join(organisation: Organisation) -> Organisation:
            return organisation if user_id in organisation.members else organisation.with_role(joining)

        return (await self._edit(org_id, join)).members[user_id]

    async def set_role(self, org_id: str, user_id: str, role: Role) -> Member:
        """Make a member an owner, or an owner a member.

        Raises:
            MemberMissing: The organisation has no such member.
            LastOwner: Nobody else owns it.
        """

        def become(organisation: Organisation) -> Organisation:
            return organisation.with_role(replace(_member(organisation, user_id), role=role))

        try:
            return (await self._edit(org_id, become)).members[user_id]
        finally:
            # Also after a failure, for the write may have been applied.
            self._changes.tell(Change(org_id=org_id, user_id=user_id))

    async def remove(self, org_id: str, user_id: str) -> None:
        """End a membership; the user's keys for the organisation stop being good with it.

        Raises:
            MemberMissing: The organisation has no such member.
            LastOwner: Nobody else owns it.
        """

        def leave(organisation: Organisation) -> Organisation:
            return organisation.without(_member(organisation, user_id).user_id)

        try:
            await self._edit(org_id, leave)
        finally:
            self._changes.tell(Change(org_id=org_id, user_id=user_id))

    async def _edit(self, org_id: str, change: Callable[[Organisation], Organisation]) -> Organisation:
        def changed(document: Document) -> Document:
            before = _organisation(document)
            after = change(before)
            return document if after == before else _document(after)

        document = await edit(self._organisations, org_id, changed)
        if document is None:
            raise MemberMissing(f"organisation {org_id!r:.80} does not exist: list your own")
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
            return  # of an earlier membership


def _member(organisation: Organisation, user_id: str) -> Member:
    member = organisation.members.get(user_id)
    if member is None:
        raise MemberMissing(f"user {user_id!r:.80}: the organisation has no such member; list its users")
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
    # Before there were members, an organisation was its maker's alone.
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
