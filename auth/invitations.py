"""Invitations: codes that let one person register. An operator creates them; the store has only their digests."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field, replace

from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.ids import new_id

from .clock import Clock, now_ms
from .edit import edit
from .errors import InvalidAccount, InvitationMissing, RegistrationRefused
from .names import normalised
from .roles import Role

_BY_DIGEST = Index(name="by_digest", fields=("digest",), unique=True)
_BY_AGE = Index(name="by_age", fields=("created_ms", "_id"))
INVITATIONS = CollectionSpec(name="invitations", indexes=(_BY_DIGEST, _BY_AGE))

LIFETIME_MS = 7 * 24 * 3600 * 1000
_MOST_MS = 365 * 24 * 3600 * 1000
_FORM = re.compile(r"ci_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """The stored record of an invitation.

    Attributes:
        id: Id of the record.
        digest: SHA-256 of the code, in hex.
        email: The only e-mail address that may use it; empty for any.
        org_id: The organisation to join; empty to create a new one.
        role: The role of the new user in the organisation.
        created_by: Id of the user who created it.
        created_ms: Time of creation, in epoch milliseconds.
        expires_ms: Expiry, in epoch milliseconds.
        used_by: Id of the user who registered with it; empty if unused.
        used_ms: Time of use, in epoch milliseconds; 0 if unused.
        version: Version of the record.
    """

    id: str
    digest: str = field(repr=False)
    email: str = ""
    org_id: str = ""
    role: Role = Role.OWNER
    created_by: str
    created_ms: int
    expires_ms: int
    used_by: str = ""
    used_ms: int = 0
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvitation:
    """A newly created invitation: the only time that its code is known.

    Attributes:
        record: The stored record.
        code: The code, to be given to the person confidentially; left out of `repr`.
    """

    record: Invitation
    code: str = field(repr=False)


class Invitations:
    """Creates, lists, revokes and uses invitations. Every method may raise `storage.errors.StoreError`."""

    def __init__(self, collection: Collection, *, clock: Clock = now_ms) -> None:
        """Create the invitations over a collection declared as `INVITATIONS`."""
        self._collection = collection
        self._clock = clock

    @classmethod
    async def open(cls, database: Database, *, clock: Clock = now_ms) -> Invitations:
        """Open the invitations of a database."""
        return cls(await database.collection(INVITATIONS), clock=clock)

    async def create(
        self,
        *,
        created_by: str,
        email: str = "",
        org_id: str = "",
        role: Role = Role.OWNER,
        lifetime_ms: int = LIFETIME_MS,
    ) -> NewInvitation:
        """Create an invitation. Its code is in the result and nowhere else.

        Args:
            created_by: Id of the user who creates it.
            email: The only e-mail address that may use it; empty for any.
            org_id: The organisation to join; empty to create a new one, which the user will own.
            role: The role of the user in the organisation to join.
            lifetime_ms: Milliseconds until it expires, at most a year.

        Raises:
            InvalidAccount: The address or the lifetime is invalid.
        """
        if not 0 < lifetime_ms <= _MOST_MS:
            raise InvalidAccount(f"lifetime_ms must be from 1 to {_MOST_MS} (a year), got {lifetime_ms}")
        code = "ci_" + secrets.token_urlsafe(32)
        now = self._clock()
        record = Invitation(
            id=new_id(),
            digest=_digest(code),
            email=normalised(email) if email else "",
            org_id=org_id,
            role=role if org_id else Role.OWNER,
            created_by=created_by,
            created_ms=now,
            expires_ms=now + lifetime_ms,
        )
        await self._collection.insert(_document(record))
        return NewInvitation(record=record, code=code)

    async def list(self, *, after: Invitation | None = None, limit: int = 100) -> list[Invitation]:
        """List invitations, newest first, including used ones.

        Args:
            after: The last invitation of the previous page.
            limit: The maximum number of invitations, 1 to 10,000.
        """
        last = None if after is None else _document(after)
        found = await self._collection.find(_BY_AGE, after=last, descending=True, limit=limit)
        return [_invitation(document) for document in found]

    async def revoke(self, invitation_id: str) -> None:
        """Delete an invitation; a user who registered with it stays.

        Raises:
            InvitationMissing: There is no invitation with this id.
        """
        if not await self._collection.delete(invitation_id):
            raise InvitationMissing(f"invitation {invitation_id!r:.80} does not exist: list the invitations")

    async def find(self, code: str, email: str) -> Invitation:
        """Find the invitation of a code, if somebody with this address may register with it now.

        Args:
            code: The code that was given out.
            email: The normalised address.

        Raises:
            RegistrationRefused: The code is unknown, revoked, used, expired or meant for another address; the message
                is the same for all of them.
        """
        documents = (
            await self._collection.find(_BY_DIGEST, {"digest": _digest(code)}, limit=1) if _FORM.fullmatch(code) else []
        )
        invitation = _invitation(documents[0]) if documents else None
        if invitation is None or self._clock() >= invitation.expires_ms or invitation.email not in {"", email}:
            raise _refused()
        return invitation

    async def use(self, invitation_id: str, user_id: str) -> None:
        """Mark an invitation as used by a user; doing it again for the same user is a no-op.

        Raises:
            RegistrationRefused: Somebody else used it first, or it was revoked.
        """

        def used(document: Document) -> Document:
            before = _invitation(document)
            if before.used_by == user_id:
                return document
            if before.used_by:
                raise _refused()
            return _document(replace(before, used_by=user_id, used_ms=self._clock()))

        if await edit(self._collection, invitation_id, used) is None:
            raise _refused()


def _refused() -> RegistrationRefused:
    return RegistrationRefused("invitation is unknown, used, expired or for another e-mail address: ask for a new one")


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("ascii")).hexdigest()


def _document(invitation: Invitation) -> Document:
    return {
        "_id": invitation.id,
        "version": invitation.version,
        "digest": invitation.digest,
        "email": invitation.email,
        "org_id": invitation.org_id,
        "role": invitation.role.value,
        "created_by": invitation.created_by,
        "created_ms": invitation.created_ms,
        "expires_ms": invitation.expires_ms,
        "used_by": invitation.used_by,
        "used_ms": invitation.used_ms,
    }


def _invitation(document: Document) -> Invitation:
    fields = {name: value for name, value in document.items() if name not in {"_id", "role"}}
    return Invitation(id=document["_id"], role=Role(document["role"]), **fields)
