"""Authentication of a credential: API keys, configured keys, bearer tokens, and no credential in local mode."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from storage.errors import StoreError

from .accounts import Accounts, Standing
from .changes import Change, Changes
from .clock import Clock, now_ms
from .credentials import Credential
from .errors import InvalidAccount
from .jwks import JwksUnavailable
from .jwt import Claims, TokenRefused, Tokens
from .key_cache import KeyCache
from .keys import KeyStore
from .known import KnownCredentials
from .principal import Principal
from .refusal import Refused, unavailable
from .roles import ALL_SCOPES, Scope, expanded
from .static_keys import StaticKeys

_ID = re.compile(r"[0-9a-f]{24}")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A caller whose credential is valid.

    Attributes:
        principal: The caller.
        expires_ms: Expiry of the credential, in epoch milliseconds; 0 means never.
        revocable: Whether the credential can be revoked before it expires; a configured key cannot.
    """

    principal: Principal
    expires_ms: int = 0
    revocable: bool = True


class Authenticator:
    """Checks credentials. Answers of the store are cached for five seconds; changes in this process clear the cache."""

    def __init__(
        self,
        keys: KeyStore,
        accounts: Accounts,
        *,
        changes: Changes,
        static: StaticKeys | None = None,
        tokens: Tokens | None = None,
        local: Principal | None = None,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an authenticator.

        Args:
            keys: The keys of the store.
            accounts: Users and memberships.
            changes: The same instance that `keys` and `accounts` publish to.
            static: Keys from the configuration.
            tokens: Checks bearer tokens; None refuses them.
            local: The caller of requests without a credential, in local mode; None refuses such requests.
            clock: Epoch milliseconds.
            monotonic: Seconds, for the age of cached answers.
        """
        self._keys = keys
        self._accounts = accounts
        self._static = static
        self._tokens = tokens
        self._local = None if local is None else replace(local, key_id="", method="local")
        self._clock = clock
        self._known = KnownCredentials(monotonic)
        self._standings = KeyCache[Standing](monotonic)
        self._users = KeyCache[str](monotonic)
        self._homes = KeyCache[tuple[str, ...]](monotonic)
        changes.subscribe(self._forget)

    def recently_valid(self, credential: Credential) -> bool:
        """Return whether the credential was valid within the last hour, without reading the store."""
        return credential.text in self._known

    async def authenticate(self, credential: Credential) -> Verified:
        """Check a credential and return its caller.

        Raises:
            Refused: The credential is missing or invalid, or it cannot be checked now.
        """
        text = credential.text
        if not text:
            if self._local is not None:
                return Verified(principal=self._local, revocable=False)
            raise Refused(
                status=401,
                reason="no credential",
                error="authentication required (X-API-Key or Bearer token)",
                details=credential.hint,
            )
        try:
            verified = await self._verified(credential)
        except StoreError as error:
            _log.error("credential check failed: the store failed", error=error.message)
            raise unavailable("API keys cannot be checked now") from None
        except JwksUnavailable:
            raise unavailable("bearer tokens cannot be checked now") from None
        except Refused as refusal:
            if refusal.status == 401:
                self._known.discard(text)
            raise
        self._known.add(text)
        return verified

    async def still_valid(self, verified: Verified) -> bool:
        """Return whether a caller's credential is still valid, without using the cache.

        Raises:
            StoreError: The store failed, so the answer is unknown.
        """
        principal = verified.principal
        if verified.expires_ms and self._clock() >= verified.expires_ms:
            return False
        if not verified.revocable:
            return True
        if principal.method == "key" and not await self._keys.is_valid(principal.key_id):
            return False
        return await self._accounts.standing(principal.org_id, principal.user_id) is not None

    async def _verified(self, credential: Credential) -> Verified:
        principal = None if self._static is None else self._static.check(credential.text)
        if principal is not None:
            return Verified(principal=principal, revocable=False)
        if credential.bearer.count(".") == 2:
            if self._tokens is None:
                raise Refused(
                    status=401,
                    reason="no tokens",
                    error="invalid bearer token",
                    details="This server accepts API keys alone; its operator can set CASEMATE_JWT_SECRET or "
                    "CASEMATE_JWT_JWKS_URL",
                )
            return await self._by_token(self._tokens, credential)
        return await self._by_key(credential.text)

    async def _by_key(self, text: str) -> Verified:
        key = await self._keys.check(text)
        standing = None if key is None else await self._standing(key.org_id, key.created_by)
        if key is None or standing is None:
            # An unknown key and one whose creator was removed get the same answer, which reveals nothing.
            raise Refused(
                status=401,
                reason="bad key",
                error="invalid or inactive API key",
                details="Check the key, or create a new one",
            )
        principal = Principal(
            org_id=key.org_id,
            user_id=key.created_by,
            key_id=key.id,
            scopes=_allowed_scopes(key.scopes, standing),
            role=standing.role,
            operator=standing.operator and Scope.ADMIN in key.scopes,
        )
        return Verified(principal=principal, expires_ms=key.expires_ms)

    async def _by_token(self, tokens: Tokens, credential: Credential) -> Verified:
        try:
            claims = await tokens.check(credential.bearer)
        except TokenRefused as error:
            raise Refused(
                status=401, reason="bad token", error="invalid bearer token", details=f"The token was refused: {error}"
            ) from None
        user_id = await self._user(claims)
        if not user_id:
            raise Refused(
                status=401,
                reason="unknown user",
                error="invalid bearer token",
                details="Neither `sub` nor an `email` with `email_verified` names a user of this server",
            )
        org_id = credential.org_id or await self._only_organisation(user_id)
        standing = await self._standing(org_id, user_id) if _ID.fullmatch(org_id) else None
        if standing is None:
            # An unknown organisation, somebody else's, and one that the user was removed from get the same answer.
            raise Refused(
                status=401,
                reason="no member",
                error="X-Org-ID does not name an organisation of this user",
                details="GET /api/users/me lists the user's organisations",
            )
        principal = Principal(
            org_id=org_id,
            user_id=user_id,
            scopes=_allowed_scopes(ALL_SCOPES, standing),
            role=standing.role,
            operator=standing.operator,
            method="jwt",
        )
        return Verified(principal=principal, expires_ms=claims.expires_ms)

    async def _standing(self, org_id: str, user_id: str) -> Standing | None:
        name = f"{org_id}.{user_id}"
        standing = self._standings.get(name)
        if standing is None:
            ticket = self._standings.ticket()
            standing = await self._accounts.standing(org_id, user_id)
            if standing is not None:
                self._standings.put(name, standing, ticket)
        return standing

    async def _user(self, claims: Claims) -> str:
        """Return the id of the user that a token names; empty if there is none."""
        subject = claims.subject if _ID.fullmatch(claims.subject) else ""
        name = f"{subject} {claims.email}"
        user_id = self._users.get(name)
        if user_id is not None:
            return user_id
        ticket = self._users.ticket()
        user = await self._accounts.users.get(subject) if subject else None
        if user is None and claims.email:
            try:
                user = await self._accounts.users.by_email(claims.email)
            except InvalidAccount:  # no user can have such an address
                return ""
            # Only the key file identifies the local user: anybody could claim an address at localhost.
            if user is not None and user.email.endswith("@localhost"):
                return ""
        if user is None:
            return ""
        self._users.put(name, user.id, ticket)
        return user.id

    async def _only_organisation(self, user_id: str) -> str:
        """Return the id of the user's only organisation; empty if there is none."""
        homes = self._homes.get(user_id)
        if homes is None:
            ticket = self._homes.ticket()
            homes = tuple(it.id for it in await self._accounts.organisations.of_user(user_id))
            self._homes.put(user_id, homes, ticket)
        if len(homes) > 1:
            raise Refused(
                status=400,
                reason="which organisation",
                error="X-Org-ID is required: this user belongs to several organisations",
                details="Send the id of one of them in the header X-Org-ID",
            )
        return homes[0] if homes else ""

    def _forget(self, _change: Change) -> None:
        self._standings.clear()
        self._homes.clear()


def _allowed_scopes(scopes: frozenset[Scope], standing: Standing) -> frozenset[Scope]:
    """Limit scopes to those of the user's role: a member never administers others, whatever the key allows."""
    return expanded(scopes) & standing.role.scopes
