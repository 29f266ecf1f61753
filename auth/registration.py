"""Registration: creates a user, an organisation and a first key, all or nothing as far as anybody can see.

The store has no transactions, so the order of the steps matters. The user comes first, because its unique address
decides between concurrent registrations; it is marked as registering until all steps are done. A crash leaves such a
user behind, without a key that anybody knows. Whoever registers the same address a minute later takes it over and
completes the registration; a key from the interrupted one is deleted, because nobody ever received it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import anyio

from .accounts import Accounts
from .api_key import NewKey
from .clock import Clock, now_ms
from .errors import EmailTaken, RegistrationRefused
from .invitations import Invitation, Invitations
from .keys import KeyStore
from .names import MAX_NAME, clean_name, normalised
from .organisations import Organisation
from .users import User

ABANDONED_MS = 60_000
"""Milliseconds after which an unfinished registration counts as interrupted."""

_FIRST_KEY = "first key"


class RegistrationPolicy(StrEnum):
    """Who may register: everybody, people with an invitation, or nobody."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The result of a registration.

    Attributes:
        user: The new user.
        organisation: The user's own organisation, or the one of the invitation.
        key: The first key; its text is known only here.
    """

    user: User
    organisation: Organisation
    key: NewKey


class Registration:
    """Registers users, and removes members with their keys. Every method may raise `storage.errors.StoreError`."""

    def __init__(
        self,
        accounts: Accounts,
        keys: KeyStore,
        invitations: Invitations,
        *,
        policy: RegistrationPolicy,
        clock: Clock = now_ms,
    ) -> None:
        """Create a registration over the stores.

        Args:
            accounts: Users and organisations.
            keys: The key store.
            invitations: The invitations.
            policy: Who may register.
            clock: Epoch milliseconds.
        """
        self._accounts = accounts
        self._keys = keys
        self._invitations = invitations
        self._policy = policy
        self._clock = clock

    async def register(self, *, name: str, email: str, invitation: str = "", organisation: str = "") -> Registered:
        """Create a user, an organisation or a membership, and a key.

        Args:
            name: The user's name; empty for the part of the address before the @.
            email: The user's e-mail address; unique on this server.
            invitation: The code of an invitation; empty without one.
            organisation: Name of a new organisation; empty for the default, `<FirstName>-Org`.

        Raises:
            RegistrationRefused: The policy does not allow it, or the invitation is invalid.
            InvalidAccount: A field is invalid.
            EmailTaken: Another user has the address, or is registering it now.
        """
        email = normalised(email)
        name = clean_name("name", name or email.partition("@")[0])
        organisation = clean_name("organisation name", organisation or _default_name(name))
        if self._policy is RegistrationPolicy.CLOSED:
            raise RegistrationRefused("registration is closed on this server: ask its operator")
        if self._policy is RegistrationPolicy.INVITE and not invitation:
            raise RegistrationRefused("registration needs an invitation on this server: ask its operator for a code")
        invited = await self._invited(invitation, email) if invitation else None
        user, is_new = await self._claim(name, email)
        if invited is not None:
            try:
                await self._invitations.use(invited.id, user.id)
            except RegistrationRefused:
                if is_new:
                    await self._accounts.users.delete(user.id)
                raise
        home = await self._home(user, invited, organisation)
        if not is_new:
            for left in await self._keys.list(home.id):
                if left.created_by == user.id:
                    await self._keys.delete(home.id, left.id)
        key = await self._keys.create(org_id=home.id, created_by=user.id, name=_FIRST_KEY)
        done = await self._accounts.users.change(user.id, self._done(user))
        return Registered(user=done or user, organisation=home, key=key)

    async def remove_member(self, org_id: str, user_id: str) -> None:
        """Remove a member, and deactivate the user's keys for the organisation in case the user returns.

        The keys are refused as soon as the membership ends, even if a crash leaves them active.

        Raises:
            MemberMissing: The organisation has no such member.
            LastOwner: The member is the only owner.
        """
        await self._accounts.organisations.remove(org_id, user_id)
        with anyio.CancelScope(shield=True):
            for key in await self._keys.list(org_id):
                if key.created_by == user_id:
                    await self._keys.set_active(org_id, key.id, active=False)

    async def _claim(self, name: str, email: str) -> tuple[User, bool]:
        """Create the user or take over an abandoned one; return it and whether it is new."""
        try:
            return await self._accounts.users.create(name=name, email=email, registering=True), True
        except EmailTaken:
            left = await self._accounts.users.by_email(email)
            if left is None or not self._abandoned(left):
                raise
        now = self._clock()

        def take_over(user: User) -> User:
            # Of two concurrent attempts to take it over, the second one finds it claimed again.
            if not self._abandoned(user):
                raise EmailTaken(f"email {email!r:.80} is already registered: use another address")
            return replace(user, name=name, registering_ms=now)

        taken = await self._accounts.users.change(left.id, take_over)
        if taken is None:
            raise EmailTaken(f"email {email!r:.80} was just registered and removed: try again")
        return taken, False

    async def _invited(self, code: str, email: str) -> Invitation:
        invitation = await self._invitations.find(code, email)
        if invitation.org_id and await self._accounts.organisations.get(invitation.org_id) is None:
            raise RegistrationRefused("the organisation of the invitation was deleted: ask for a new invitation")
        return invitation

    async def _home(self, user: User, invited: Invitation | None, name: str) -> Organisation:
        organisations = self._accounts.organisations
        if invited is not None and invited.org_id:
            await organisations.add(invited.org_id, user.id, invited.role)
        for existing in await organisations.of_user(user.id):
            # The one that was just joined, or one that an interrupted registration created.
            if existing.id == (invited.org_id if invited is not None else "") or existing.created_by == user.id:
                return existing
        return await organisations.create(name=name, owner_id=user.id)

    def _abandoned(self, user: User) -> bool:
        return bool(user.registering_ms) and self._clock() - user.registering_ms >= ABANDONED_MS

    def _done(self, claimed: User) -> Callable[[User], User]:
        def done(user: User) -> User:
            # Somebody took the user over because this registration was too slow, and gets their own key.
            if user.registering_ms != claimed.registering_ms:
                raise EmailTaken(f"email {user.email!r:.80} was registered by somebody else meanwhile: use another one")
            return replace(user, registering_ms=0)

        return done


def _default_name(name: str) -> str:
    return f"{name.split(maxsplit=1)[0][: MAX_NAME - 4]}-Org"
