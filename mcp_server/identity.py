"""Wires up authentication as the settings say: accounts, keys, tokens and rate limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from auth.accounts import Accounts
from auth.api_key import well_formed
from auth.authenticator import Authenticator
from auth.bootstrap import ensure_local_access
from auth.changes import Changes
from auth.counts import Counts
from auth.credentials import Credential
from auth.exchange import COUNTS, Exchange
from auth.gate import Gate
from auth.invitations import Invitations
from auth.jwks import Jwks
from auth.jwt import Tokens
from auth.keys import KeyStore
from auth.limits import Limits
from auth.refusal import Refused
from auth.registration import Registration, RegistrationPolicy
from auth.static_keys import StaticKeys
from auth.tickets import Tickets
from auth.watch import Watch

from .rest.accounts import AccountRoutes
from .rest.keys import KeyRoutes
from .rest.operator import OperatorRoutes
from .rest.tickets import TicketRoutes

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from auth.gate import OnLater
    from auth.principal import Principal
    from storage.collection import Database

    from .rest.endpoint import Endpoint
    from .settings import Settings


_UNKNOWN = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The services that authenticate callers.

    Attributes:
        accounts: Users and organisations.
        keys: The keys of all organisations.
        invitations: Invitations, for servers without open registration.
        registration: Creates users.
        local: The principal of the local key.
        authenticator, limits, watch, tickets: Shared by every gate.
        query_keys: Whether keys in URLs count for all requests.
        exchange: Shares rate limit counters between servers; None if this is the only server on its store.
    """

    accounts: Accounts
    keys: KeyStore
    invitations: Invitations
    registration: Registration
    local: Principal
    authenticator: Authenticator
    limits: Limits
    watch: Watch
    tickets: Tickets
    query_keys: bool
    exchange: Exchange | None

    @classmethod
    async def open(cls, settings: Settings, database: Database, *, shared: bool) -> Identity:
        """Open the identity services of a database, and create the local user and key if they are missing.

        Args:
            settings: The operator's settings.
            database: The open database.
            shared: Whether other servers may use the database.

        Raises:
            AuthError: The local key cannot be read or written, or a setting is invalid.
            StoreError: The store failed.
        """
        changes = Changes()
        keys = await KeyStore.open(database, changes=changes)
        accounts = await Accounts.open(database, changes=changes)
        invitations = await Invitations.open(database)
        local = (await ensure_local_access(accounts, keys, settings.key_file)).principal
        static = [key.get_secret_value() for key in settings.api_keys]
        authenticator = Authenticator(
            keys,
            accounts,
            changes=changes,
            static=StaticKeys(static, local) if static else None,
            tokens=_tokens(settings),
            local=local if settings.local_mode else None,
        )
        counts = Counts()
        return cls(
            accounts=accounts,
            keys=keys,
            invitations=invitations,
            registration=Registration(
                accounts, keys, invitations, policy=RegistrationPolicy(settings.registration_policy)
            ),
            local=local,
            authenticator=authenticator,
            limits=Limits(
                counts,
                requests=settings.rate_limit_requests,
                window_s=settings.rate_limit_window_seconds,
                refusals_per_minute=settings.refusals_per_minute,
                registrations_per_hour=settings.registrations_per_hour,
            ),
            watch=Watch(authenticator, changes=changes),
            tickets=Tickets(),
            query_keys=settings.query_keys,
            exchange=Exchange(await database.collection(COUNTS), counts) if shared else None,
        )

    def gate(self, app: ASGIApp, on_later: OnLater | None = None) -> ASGIApp:
        """Put a gate in front of an application."""
        return Gate(
            app,
            self.authenticator,
            self.limits,
            self.watch,
            tickets=self.tickets,
            query_keys=self.query_keys,
            on_later=on_later,
        )

    async def recognises(self, bearer: str, address: str) -> bool:
        """Return whether a bearer token is a credential of this server, or may be one that cannot be checked now.

        Guesses of keys count as refused credentials of the address. While it is blocked nothing is looked up.
        """
        if await self.limits.blocked_s(address):
            return True
        try:
            await self.authenticator.authenticate(Credential(bearer=bearer))
        except Refused as refusal:
            if refusal.status != _UNKNOWN:
                return True
            # An application's own tokens are no guesses.
            if well_formed(bearer):
                await self.limits.refused(address)
            return False
        return True

    def endpoints(self) -> list[Endpoint]:
        """List the REST endpoints for accounts that need a credential."""
        routes = (
            AccountRoutes(self.accounts, self.registration, self.limits),
            KeyRoutes(self.keys, self.accounts),
            OperatorRoutes(self.accounts, self.invitations),
            TicketRoutes(self.tickets),
        )
        return [endpoint for module in routes for endpoint in module.endpoints()]

    def open_endpoints(self) -> list[Endpoint]:
        """List the REST endpoints that need no credential."""
        return AccountRoutes(self.accounts, self.registration, self.limits).open_endpoints()

    async def run(self) -> None:
        """Run the background tasks until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.keys.run)
            tasks.start_soon(self.watch.run)
            if self.exchange is not None:
                tasks.start_soon(self.exchange.run)


def _tokens(settings: Settings) -> Tokens | None:
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
    if not secret and not settings.jwt_jwks_url:
        return None
    jwks = Jwks(settings.jwt_jwks_url) if settings.jwt_jwks_url else None
    return Tokens(secret=secret, jwks=jwks, issuer=settings.jwt_issuer, audience=settings.jwt_audience)
