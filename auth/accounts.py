"""Accounts: users, organisations, and how a user stands in an organisation."""

from __future__ import annotations

from dataclasses import dataclass

from storage.collection import Database

from .changes import Changes
from .clock import Clock, now_ms
from .errors import MemberMissing
from .organisations import MEMBERS, ORGANISATIONS, Member, Organisations
from .roles import Role
from .users import USERS, User, Users


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a user stands in an organisation.

    Attributes:
        role: What the user is there.
        operator: Whether the user runs this server.
    """

    role: Role
    operator: bool


class Accounts:
    """Users and organisations together. Every method may raise `storage.errors.StoreError`.

    Attributes:
        users: The people.
        organisations: What they belong to.
    """

    def __init__(self, users: Users, organisations: Organisations) -> None:
        self.users = users
        self.organisations = organisations

    @classmethod
    async def open(cls, database: Database, *, changes: Changes | None = None, clock: Clock = now_ms) -> Accounts:
        """The accounts of a database.

        Args:
            database: Where they are kept.
            changes: Told of members who were removed or demoted.
            clock: Epoch milliseconds.
        """
        users = Users(await database.collection(USERS), clock=clock)
        organisations = Organisations(
            await database.collection(ORGANISATIONS), await database.collection(MEMBERS), changes=changes, clock=clock
        )
        return cls(users, organisations)

    async def standing(self, org_id: str, user_id: str) -> Standing | None:
        """How a user stands in an organisation, by two reads; None if the user does not belong there."""
        organisation = await self.organisations.get(org_id)
        member = None if organisation is None else organisation.members.get(user_id)
        if member is None:
            return None
        user = await self.users.get(user_id)
        return None if user is None else Standing(role=member.role, operator=user.operator)

    async def members(self, org_id: str) -> list[tuple[Member, User]]:
        """Who belongs to an organisation, in the order of joining."""
        organisation = await self.organisations.get(org_id)
        if organisation is None:
            return []
        found = [(member, await self.users.get(member.user_id)) for member in organisation.members.values()]
        known = [(member, user) for member, user in found if user is not None]
        return sorted(known, key=lambda pair: (pair[0].created_ms, pair[0].user_id))

    async def add_member(self, org_id: str, email: str, role: Role) -> tuple[Member, User]:
        """Let the user of an address belong to an organisation; one who does already keeps the role.

        Raises:
            InvalidAccount: It is no address.
            MemberMissing: Nobody is registered under it, or the organisation does not exist.
            OrganisationFull: The organisation has no room.
        """
        user = await self.users.by_email(email)
        if user is None or user.registering_ms:
            raise MemberMissing(f"email {email[:80]!a:.80}: nobody is registered under it; send them an invitation")
        return await self.organisations.add(org_id, user.id, role), user
