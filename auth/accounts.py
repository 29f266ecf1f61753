"""Users, organisations, and who belongs to which: what a local start needs, to be widened by registration.

A membership is a document of its own, so that both questions (an organisation's members, a user's organisations) are
walks of a plain index and no array has to be searched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.errors import DuplicateKey
from storage.ids import new_id

from .clock import Clock, now_ms
from .errors import EmailTaken, InvalidAccount
from .roles import Role

_BY_EMAIL = Index(name="by_email", fields=("email",), unique=True)
_BY_ORG = Index(name="by_org", fields=("org_id", "_id"))
_BY_USER = Index(name="by_user", fields=("user_id", "_id"))

USERS = CollectionSpec(name="users", indexes=(_BY_EMAIL,))
ORGANISATIONS = CollectionSpec(name="organisations")
MEMBERS = CollectionSpec(name="members", indexes=(_BY_ORG, _BY_USER))

_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_MAX_EMAIL = 254
_MAX_NAME = 100
_MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person. `email` is normalised; `created_ms` is epoch milliseconds."""

    id: str
    name: str
    email: str
    created_ms: int
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """What owns sandboxes and keys. `created_by` is a user's id; `created_ms` is epoch milliseconds."""

    id: str
    name: str
    created_by: str
    created_ms: int
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """That a user belongs to an organisation, and as what; `created_ms` is epoch milliseconds."""

    org_id: str
    user_id: str
    role: Role
    created_ms: int
    version: int = 1


class Accounts:
    """Keeps users, organisations and memberships. Every method may raise `storage.errors.StoreError`."""

    def __init__(
        self, users: Collection, organisations: Collection, members: Collection, *, clock: Clock = now_ms
    ) -> None:
        """A store on collections declared as `USERS`, `ORGANISATIONS` and `MEMBERS`."""
        self._users = users
        self._organisations = organisations
        self._members = members
        self._clock = clock

    @classmethod
    async def open(cls, database: Database, *, clock: Clock = now_ms) -> Accounts:
        """The accounts of a database."""
        collections = [await database.collection(spec) for spec in (USERS, ORGANISATIONS, MEMBERS)]
        return cls(*collections, clock=clock)

    async def create_user(self, *, name: str, email: str) -> User:
        """Add a person.

        Raises:
            EmailTaken: Somebody has the address, in whatever case.
            InvalidAccount: A field.
        """
        user = User(id=new_id(), name=_name("name", name), email=normalised(email), created_ms=self._clock())
        try:
            await self._users.insert(
                {"_id": user.id, "version": 1, "name": user.name, "email": user.email, "created_ms": user.created_ms}
            )
        except DuplicateKey as error:
            raise EmailTaken(f"email {user.email!r:.80} is registered already: use another one") from error
        return user

    async def user(self, user_id: str) -> User | None:
        """The user of that id."""
        document = await self._users.get(user_id)
        return None if document is None else _user(document)

    async def user_by_email(self, email: str) -> User | None:
        """The user of that address, in whatever case.

        Raises:
            InvalidAccount: It is no address.
        """
        found = await self._users.find(_BY_EMAIL, {"email": normalised(email)}, limit=1)
        return _user(found[0]) if found else None

    async def create_organisation(self, *, name: str, owner: User) -> Organisation:
        """Add an organisation, with its owner as the only member.

        Raises:
            InvalidAccount: The name.
        """
        made = Organisation(id=new_id(), name=_name("name", name), created_by=owner.id, created_ms=self._clock())
        await self._organisations.insert(
            {
                "_id": made.id,
                "version": 1,
                "name": made.name,
                "created_by": made.created_by,
                "created_ms": made.created_ms,
            }
        )
        # The membership comes last and counts: what a crash leaves before it is an organisation that nobody sees.
        await self.add_member(made.id, owner.id, Role.OWNER)
        return made

    async def organisation(self, org_id: str) -> Organisation | None:
        """The organisation of that id."""
        document = await self._organisations.get(org_id)
        return None if document is None else _organisation(document)

    async def add_member(self, org_id: str, user_id: str, role: Role) -> Member:
        """Let a user belong to an organisation; one who does already keeps the role."""
        member = Member(org_id=org_id, user_id=user_id, role=role, created_ms=self._clock())
        try:
            await self._members.insert(
                {
                    "_id": _member_id(org_id, user_id),
                    "version": 1,
                    "org_id": org_id,
                    "user_id": user_id,
                    "role": role.value,
                    "created_ms": member.created_ms,
                }
            )
        except DuplicateKey:
            return await self.member(org_id, user_id) or member
        return member

    async def member(self, org_id: str, user_id: str) -> Member | None:
        """The membership, by one read; None if the user does not belong to the organisation."""
        document = await self._members.get(_member_id(org_id, user_id))
        return None if document is None else _member(document)

    async def members(self, org_id: str) -> list[Member]:
        """The first thousand members of an organisation."""
        return [_member(document) for document in await self._members.find(_BY_ORG, {"org_id": org_id}, limit=_MOST)]

    async def memberships(self, user_id: str) -> list[Member]:
        """The first thousand organisations that a user belongs to, oldest first."""
        return [_member(document) for document in await self._members.find(_BY_USER, {"user_id": user_id}, limit=_MOST)]


def normalised(email: str) -> str:
    """An address as it is kept and compared: trimmed and in lower case.

    Only ASCII is taken, for look-alikes from other alphabets would pass as different people.

    Raises:
        InvalidAccount: It is no address.
    """
    address = email.strip().lower() if email.isascii() else ""
    if len(address) > _MAX_EMAIL or _EMAIL.fullmatch(address) is None:
        raise InvalidAccount(f"email {email!r:.80}: give an address such as name@example.org, in ASCII")
    return address


def _name(field: str, name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
        raise InvalidAccount(f"{field} {name!r:.80}: give 1 to {_MAX_NAME} printable characters")
    return name


def _member_id(org_id: str, user_id: str) -> str:
    return f"{org_id}.{user_id}"


def _user(document: Document) -> User:
    return User(id=document["_id"], **{name: value for name, value in document.items() if name != "_id"})


def _organisation(document: Document) -> Organisation:
    return Organisation(id=document["_id"], **{name: value for name, value in document.items() if name != "_id"})


def _member(document: Document) -> Member:
    return Member(
        org_id=document["org_id"],
        user_id=document["user_id"],
        role=Role(document["role"]),
        created_ms=document["created_ms"],
        version=document["version"],
    )
