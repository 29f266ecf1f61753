"""Users, each with a unique e-mail address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from storage.collection import Collection, CollectionSpec, Document, Index
from storage.errors import DuplicateKey
from storage.ids import new_id

from .clock import Clock, now_ms
from .edit import edit
from .errors import EmailTaken
from .names import clean_name, normalised

_BY_EMAIL = Index(name="by_email", fields=("email",), unique=True)
_BY_AGE = Index(name="by_age", fields=("created_ms", "_id"))
USERS = CollectionSpec(name="users", indexes=(_BY_EMAIL, _BY_AGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user.

    Attributes:
        id: Id of the record.
        name: Display name.
        email: Normalised e-mail address.
        created_ms: Time of creation, in epoch milliseconds.
        operator: Whether this user operates the server.
        registering_ms: Start of an unfinished registration, in epoch milliseconds; 0 when it is finished.
        version: Version of the record.
    """

    id: str
    name: str
    email: str
    created_ms: int
    operator: bool = False
    registering_ms: int = 0
    version: int = 1


class Users:
    """Stores users. Every method may raise `storage.errors.StoreError`."""

    def __init__(self, collection: Collection, *, clock: Clock = now_ms) -> None:
        """Create the store over a collection declared as `USERS`."""
        self._collection = collection
        self._clock = clock

    async def create(self, *, name: str, email: str, operator: bool = False, registering: bool = False) -> User:
        """Create a user.

        Raises:
            EmailTaken: Another user has the address, regardless of case.
            InvalidAccount: A field is invalid.
        """
        now = self._clock()
        user = User(
            id=new_id(),
            name=clean_name("name", name),
            email=normalised(email),
            created_ms=now,
            operator=operator,
            registering_ms=now if registering else 0,
        )
        try:
            await self._collection.insert(_document(user))
        except DuplicateKey as error:
            raise EmailTaken(f"email {user.email!r:.80} is already registered: use another address") from error
        return user

    async def get(self, user_id: str) -> User | None:
        """Return the user with this id; None if there is none."""
        document = await self._collection.get(user_id)
        return None if document is None else _user(document)

    async def by_email(self, email: str) -> User | None:
        """Return the user with this e-mail address, regardless of case; None if there is none.

        Raises:
            InvalidAccount: The address is invalid.
        """
        found = await self._collection.find(_BY_EMAIL, {"email": normalised(email)}, limit=1)
        return _user(found[0]) if found else None

    async def list(self, *, after: User | None = None, limit: int = 100) -> list[User]:
        """List the users of this server, oldest first.

        Args:
            after: The last user of the previous page.
            limit: The maximum number of users, 1 to 10,000.
        """
        last = None if after is None else _document(after)
        return [_user(document) for document in await self._collection.find(_BY_AGE, after=last, limit=limit)]

    async def change(self, user_id: str, change: Callable[[User], User]) -> User | None:
        """Change a user with a function, whose errors propagate; None if the user does not exist."""

        def changed(document: Document) -> Document:
            before = _user(document)
            after = change(before)
            return document if after == before else _document(after)

        document = await edit(self._collection, user_id, changed)
        return None if document is None else _user(document)

    async def make_operator(self, user_id: str) -> User | None:
        """Make a user an operator of this server. Idempotent."""
        return await self.change(user_id, lambda user: replace(user, operator=True))

    async def delete(self, user_id: str) -> None:
        """Delete a user."""
        await self._collection.delete(user_id)


def _document(user: User) -> Document:
    return {
        "_id": user.id,
        "version": user.version,
        "name": user.name,
        "email": user.email,
        "created_ms": user.created_ms,
        "operator": user.operator,
        "registering_ms": user.registering_ms,
    }


def _user(document: Document) -> User:
    return User(id=document["_id"], **{name: value for name, value in document.items() if name != "_id"})
