"""Accounts, keys and a gate that work together, with clocks that the tests turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auth.accounts import Accounts
from auth.api_key import NewKey
from auth.authenticator import Authenticator
from auth.changes import Changes
from auth.counts import Counts
from auth.gate import Gate
from auth.invitations import INVITATIONS, Invitations
from auth.keys import KEYS, KeyStore
from auth.limits import Limits
from auth.organisations import MEMBERS, ORGANISATIONS, Organisations
from auth.registration import Registration, RegistrationPolicy
from auth.roles import ALL_SCOPES, Role, Scope
from auth.users import USERS, User, Users
from auth.watch import Watch
from tests.auth.spies import SpyCollection

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from storage.collection import Database
    from tests.auth.clocks import Clocks


async def open_rig(database: Database, clocks: Clocks) -> Rig:
    """A server on a database."""
    specs = (USERS, ORGANISATIONS, MEMBERS, KEYS, INVITATIONS)
    return Rig(spies={spec.name: SpyCollection(await database.collection(spec)) for spec in specs}, clocks=clocks)


@dataclass(slots=True, kw_only=True)
class Rig:
    """The parts of one server; two rigs on the same collections are two servers on one store.

    Attributes:
        spies: Around the collections, by their names.
        options: For the authenticator: tokens, static, local.
        limited: For the limits.
    """

    spies: dict[str, SpyCollection]
    clocks: Clocks
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    limited: dict[str, int] = field(default_factory=dict[str, int])
    changes: Changes = field(init=False)
    accounts: Accounts = field(init=False)
    keys: KeyStore = field(init=False)
    counts: Counts = field(init=False)
    limits: Limits = field(init=False)
    authenticator: Authenticator = field(init=False)
    watch: Watch = field(init=False)
    invitations: Invitations = field(init=False)

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> None:
        """Make the parts anew, as a restart does."""
        clocks, changes = self.clocks, Changes()
        self.changes = changes
        self.accounts = Accounts(
            Users(self.spies["users"], clock=clocks.epoch),
            Organisations(self.spies["organisations"], self.spies["members"], changes=changes, clock=clocks.epoch),
        )
        self.keys = KeyStore(self.spies["api_keys"], changes=changes, clock=clocks.epoch, monotonic=clocks.monotonic)
        self.invitations = Invitations(self.spies["invitations"], clock=clocks.epoch)
        self.counts = Counts(clock=clocks.epoch)
        self.limits = Limits(self.counts, clock=clocks.epoch, **self.limited)
        self.authenticator = Authenticator(
            self.keys,
            self.accounts,
            changes=changes,
            clock=clocks.epoch,
            monotonic=clocks.monotonic,
            **self.options,
        )
        self.watch = Watch(self.authenticator, changes=changes, clock=clocks.epoch, monotonic=clocks.monotonic)

    def gate(self, app: ASGIApp, **options: Any) -> Gate:
        return Gate(app, self.authenticator, self.limits, self.watch, **options)

    def registration(self, policy: RegistrationPolicy = RegistrationPolicy.OPEN) -> Registration:
        return Registration(self.accounts, self.keys, self.invitations, policy=policy, clock=self.clocks.epoch)

    @property
    def reads(self) -> int:
        """Reads of the store so far."""
        return sum(spy.reads for spy in self.spies.values())

    async def user(self, name: str) -> tuple[User, str]:
        """A user, and the id of an organisation that is the user's own."""
        user = await self.accounts.users.create(name=name.title(), email=f"{name}@example.org")
        return user, (await self.accounts.organisations.create(name=name, owner_id=user.id)).id

    async def key(
        self, user: User, org_id: str, *, scopes: frozenset[Scope] = ALL_SCOPES, expires_ms: int = 0
    ) -> NewKey:
        return await self.keys.create(
            org_id=org_id, created_by=user.id, name="key", scopes=scopes, expires_ms=expires_ms
        )

    async def join(self, user: User, org_id: str, role: Role = Role.MEMBER) -> None:
        await self.accounts.organisations.add(org_id, user.id, role)
