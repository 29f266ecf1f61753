"""Accounts: users, organisations, and the rights of a user in an organisation."""

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
    """The rights of a user in an organisation.

    Attributes:
        role: The user's role in the organisation.
        operator: Whether the user operates this server.
    """

    role: Role
    operator: bool


class Accounts:
    """Users and organisations together. Every method may raise `storage.errors.StoreError`.

    Attributes:
        users: The users.
        organisations: The organisations and their members.
    """

    def __init__(self, users: Users, organisations: Organisations) -> None:
        self.users = users
        self.organisations = organisations

    @classmethod
    async def open(cls, database: Database, *, changes: Changes | None = None, clock: Clock = now_ms) -> Accounts:
        """Open the accounts of a database.

        Args:
            database: The database that stores them.
            changes: Publishes removed and demoted members.
            clock: Epoch milliseconds.
        """
        users = Users(await database.collection(USERS), clock=clock)
        organisations = Organisations(
            await database.collection(ORGANISATIONS), await database.collection(MEMBERS), changes=changes, clock=clock
        )
        return cls(users, organisations)

    async def standing(self, org_id: str, user_id: str) -> Standing | None:
        """Look up a user's rights in an organisation, with two reads; None if the user is not a member."""
        organisation = await self.organisations.get(org_id)
        member = None if organisation is None else organisation.members.get(user_id)
        if member is None:
            return None
        user = await self.users.get(user_id)
        return None if user is None else Standing(role=member.role, operator=user.operator)

    async def members(self, org_id: str) -> list[tuple[Member, User]]:
        """List the members of an organisation, in the order of joining."""
        organisation = await self.organisations.get(org_id)
        if organisation is None:
            return []
        found = [(member, await self.users.get(member.user_id)) for member in organisation.members.values()]
        known = [(member, user) for member, user in found if user is not None]
        return sorted(known, key=lambda pair: (pair[0].created_ms, pair[0].user_id))

    async def add_member(self, org_id: str, email: str, role: Role) -> tuple[Member, User]:
        """Add the user with this e-mail address to an organisation; an existing member keeps the role.

        Raises:
            InvalidAccount: The address is invalid.
            MemberMissing: No user has this address, or the organisation does not exist.
            OrganisationFull: The organisation has as many members as it may have.
        """
        user = await self.users.by_email(email)
        if user is None or user.registering_ms:
            raise MemberMissing(f"email {email[:80]!a:.80} is not registered: send an invitation to this address")
        return await self.organisations.add(org_id, user.id, role), user
