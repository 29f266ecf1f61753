"""The store of API keys: it keeps their digests and looks keys up by one unique index.

A key has 256 random bits, so a fast hash is enough: it cannot be guessed. The text of a key exists only in
`NewKey.plain` and in the request that carries it; everything else holds its digest or its masked form.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

import anyio
import structlog

from storage.collection import Collection, CollectionSpec, Database, Document, Index
from storage.errors import StoreError, VersionConflict
from storage.ids import new_id

from .api_key import ApiKey, NewKey, digest_of, from_document, masked, to_document, well_formed
from .changes import Change, Changes
from .clock import Clock, now_ms
from .edit import edit
from .errors import InvalidAccount, KeyMissing, TooManyScopes
from .key_cache import KeyCache
from .names import clean_name
from .principal import Principal
from .roles import ALL_SCOPES, Scope, expanded

_BY_DIGEST = Index(name="by_digest", fields=("digest",), unique=True)
_BY_ORG = Index(name="by_org", fields=("org_id", "_id"))
KEYS = CollectionSpec(name="api_keys", indexes=(_BY_DIGEST, _BY_ORG))

_PAGE = 500
_FLUSH_S = 60.0
_LAST_FLUSH_S = 3.0

_log = structlog.get_logger(__name__)


class KeyStore:
    """Creates, checks, lists and revokes keys. Every method may raise `storage.errors.StoreError`."""

    def __init__(
        self,
        collection: Collection,
        *,
        changes: Changes | None = None,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a store over a collection declared as `KEYS`.

        Args:
            collection: The collection of the keys.
            changes: Publishes deactivated and deleted keys.
            clock: Epoch milliseconds, for creation, expiry and last use.
            monotonic: Seconds, for the age of cached answers.
        """
        self._collection = collection
        self._changes = changes or Changes()
        self._clock = clock
        self._cache = KeyCache[ApiKey](monotonic)
        self._used: dict[str, int] = {}

    @classmethod
    async def open(cls, database: Database, *, changes: Changes | None = None, clock: Clock = now_ms) -> KeyStore:
        """Open the key store of a database."""
        return cls(await database.collection(KEYS), changes=changes, clock=clock)

    async def create(
        self,
        *,
        org_id: str,
        created_by: str,
        name: str,
        expires_ms: int = 0,
        scopes: frozenset[Scope] = ALL_SCOPES,
        within: frozenset[Scope] = ALL_SCOPES,
    ) -> NewKey:
        """Create a key. Its text is in the result and nowhere else.

        Args:
            org_id: Organisation that the key acts for.
            created_by: Id of the user who creates it.
            name: 1 to 100 printable characters.
            expires_ms: Expiry, in epoch milliseconds; 0 means never.
            scopes: What the key may do.
            within: Scopes of the credential that creates it.

        Raises:
            InvalidAccount: The name or the expiry is invalid, or there is no scope.
            TooManyScopes: The key would have more scopes than the credential that creates it.
        """
        now = self._clock()
        name = clean_name("key name", name)
        if expires_ms and expires_ms <= now:
            raise InvalidAccount(f"expires_ms must be in the future, or 0 for never, got {expires_ms}")
        if not scopes:
            raise InvalidAccount(f"scopes must have at least one of {', '.join(Scope)}")
        beyond = expanded(scopes) - expanded(within)
        if beyond:
            held = ", ".join(sorted(expanded(within))) or "none"
            raise TooManyScopes(
                f"scopes must be among those of the credential that creates the key ({held}), "
                f"got {', '.join(sorted(beyond))} besides"
            )
        plain = "cm_" + secrets.token_urlsafe(32)
        record = ApiKey(
            id=new_id(),
            org_id=org_id,
            name=name,
            masked=masked(plain),
            digest=digest_of(plain),
            created_by=created_by,
            created_ms=now,
            expires_ms=expires_ms,
            scopes=scopes,
        )
        await self._collection.insert(to_document(record))
        return NewKey(record=record, plain=plain)

    async def verify(self, plain: str) -> Principal | None:
        """Return the caller that a key stands for; see `check`. It does not check the creator's membership."""
        record = await self.check(plain)
        return None if record is None else record.principal

    async def check(self, plain: str) -> ApiKey | None:
        """Look up a key by its text; None if it is malformed, unknown, inactive or expired.

        Costs one read of a unique index, or none if the same key was valid within the last five seconds.
        """
        if not well_formed(plain):
            return None
        digest = digest_of(plain)
        record = self._cache.get(digest)
        if record is None:
            ticket = self._cache.ticket()
            document = await self._collection.find(_BY_DIGEST, {"digest": digest}, limit=1)
            record = from_document(document[0]) if document else None
            if record is None or not hmac.compare_digest(record.digest, digest):
                return None
            if record.is_active:
                self._cache.put(digest, record, ticket)
        now = self._clock()
        if not record.accepted(now):
            return None
        self._used[record.id] = now
        return record

    async def is_valid(self, key_id: str) -> bool:
        """Return whether the key with this id is valid now, without using the cache."""
        document = await self._collection.get(key_id)
        return document is not None and from_document(document).accepted(self._clock())

    async def get(self, org_id: str, key_id: str) -> ApiKey:
        """Return a key of an organisation.

        Raises:
            KeyMissing: The organisation has no such key.
        """
        document = await self._collection.get(key_id)
        return self._fresh(from_document(_own(document, org_id, key_id)))

    async def list(self, org_id: str) -> list[ApiKey]:
        """List all keys of an organisation, newest first, including revoked ones."""
        keys: list[ApiKey] = []
        after: Document | None = None
        while True:
            page = await self._collection.find(_BY_ORG, {"org_id": org_id}, descending=True, after=after, limit=_PAGE)
            keys.extend(self._fresh(from_document(document)) for document in page)
            if len(page) < _PAGE:
                return keys
            after = page[-1]

    async def set_active(self, org_id: str, key_id: str, *, active: bool) -> ApiKey:
        """Activate or deactivate a key: at once in this process, within five seconds in others. Idempotent.

        Raises:
            KeyMissing: The organisation has no such key.
        """

        def switch(record: ApiKey) -> ApiKey:
            if record.is_active == active:
                return record
            return replace(record, is_active=active, updated_ms=self._clock())

        try:
            return self._fresh(await self._change(org_id, key_id, switch))
        finally:
            self._forget(org_id, key_id)

    async def revoke(self, org_id: str, key_id: str) -> ApiKey:
        """Deactivate a key; see `set_active`."""
        return await self.set_active(org_id, key_id, active=False)

    async def delete(self, org_id: str, key_id: str) -> None:
        """Delete a key: it is refused at once in this process, and within five seconds in others.

        Raises:
            KeyMissing: The organisation has no such key.
        """
        _own(await self._collection.get(key_id), org_id, key_id)
        try:
            await self._collection.delete(key_id)
        finally:
            self._used.pop(key_id, None)
            self._forget(org_id, key_id)

    async def touch(self, org_id: str, key_id: str) -> ApiKey:
        """Record that a key was used now.

        Raises:
            KeyMissing: The organisation has no such key.
        """
        now = self._clock()
        return await self._change(
            org_id, key_id, lambda record: replace(record, last_used_ms=max(record.last_used_ms, now))
        )

    async def flush(self) -> None:
        """Write pending last-used times to the store: one write for each key used since the last flush."""
        used, self._used = self._used, {}
        try:
            while used:
                key_id, at_ms = next(iter(used.items()))
                await self._touch(key_id, at_ms)
                del used[key_id]
        finally:
            self._used = used | self._used

    async def run(self, *, interval_s: float = _FLUSH_S) -> None:
        """Flush last-used times periodically, and once more when cancelled; start it in the server's task group.

        Args:
            interval_s: Seconds between two rounds.
        """
        try:
            while True:
                await anyio.sleep(interval_s)
                await self._try_flush()
        finally:
            with anyio.move_on_after(_LAST_FLUSH_S, shield=True):
                await self._try_flush()

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except StoreError as error:  # not worth an outage; the times stay pending and the next round retries
            _log.warning("last use of keys not recorded", error=str(error))

    async def _touch(self, key_id: str, at_ms: int) -> None:
        document = await self._collection.get(key_id)
        if document is None or document["last_used_ms"] >= at_ms:
            return
        try:
            await self._collection.replace({**document, "last_used_ms": at_ms})
        except VersionConflict:
            self._used.setdefault(key_id, at_ms)  # the key was changed meanwhile: the next round retries

    async def _change(self, org_id: str, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        def changed(document: Document) -> Document:
            before = from_document(_own(document, org_id, key_id))
            after = change(before)
            return document if after == before else to_document(after)

        return from_document(_own(await edit(self._collection, key_id, changed), org_id, key_id))

    def _forget(self, org_id: str, key_id: str) -> None:
        """Clear the cache and notify subscribers, even if a write failed or was cancelled: it may have been applied.

        Call it only after the write, so that an older read cannot enter the cache afterwards.
        """
        self._cache.clear()
        self._changes.publish(Change(org_id=org_id, key_id=key_id))

    def _fresh(self, record: ApiKey) -> ApiKey:
        return replace(record, last_used_ms=max(record.last_used_ms, self._used.get(record.id, 0)))


def _own(document: Document | None, org_id: str, key_id: str) -> Document:
    if document is None or document["org_id"] != org_id:
        raise KeyMissing("API key not found", details=f"This organisation has no key {key_id!r:.80}: list its keys")
    return document
