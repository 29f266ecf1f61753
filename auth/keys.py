"""API keys: made once, kept as digests, looked up by one unique index.

A key has 256 random bits, so a fast hash is enough: there is nothing to guess. The text of a key exists only in
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
    """Makes, checks, lists and revokes keys. Every method may raise `storage.errors.StoreError`."""

    def __init__(
        self,
        collection: Collection,
        *,
        changes: Changes | None = None,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """A store on a collection declared as `KEYS`.

        Args:
            collection: Where the keys are kept.
            changes: Told of keys that were switched off or deleted.
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
        """The store of a database."""
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
        """Make a key. Its text is in the result and nowhere else.

        Args:
            org_id: Organisation that the key acts for.
            created_by: Id of the user who makes it.
            name: 1 to 100 printable characters.
            expires_ms: From when on it is refused, in epoch milliseconds; 0 means never.
            scopes: What it is good for.
            within: What the credential is good for that makes it.

        Raises:
            InvalidAccount: The name, the expiry, or no scope at all.
            TooManyScopes: It would be good for more than what makes it.
        """
        now = self._clock()
        name = clean_name("key name", name)
        if expires_ms and expires_ms <= now:
            raise InvalidAccount(f"expires_ms {expires_ms} has passed: give a later time, or 0 for never")
        if not scopes:
            raise InvalidAccount(f"scopes are empty: give some of {', '.join(Scope)}")
        beyond = expanded(scopes) - expanded(within)
        if beyond:
            held = ", ".join(sorted(expanded(within))) or "none"
            raise TooManyScopes(f"scopes {', '.join(sorted(beyond))}: more than the credential has itself, {held}")
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
        """Who calls with this key; see `check`. Whether its maker still belongs to the organisation is not asked."""
        record = await self.check(plain)
        return None if record is None else record.principal

    async def check(self, plain: str) -> ApiKey | None:
        """The key of that text; None if it is malformed, unknown, switched off or expired.

        Costs one read of a unique index, or none if the same key was good within the last five seconds.
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

    async def good(self, key_id: str) -> bool:
        """Whether the key of that id is accepted now, by a fresh read."""
        document = await self._collection.get(key_id)
        return document is not None and from_document(document).accepted(self._clock())

    async def get(self, org_id: str, key_id: str) -> ApiKey:
        """A key of an organisation.

        Raises:
            KeyMissing: The organisation has no such key.
        """
        document = await self._collection.get(key_id)
        return self._fresh(from_document(_own(document, org_id, key_id)))

    async def list(self, org_id: str) -> list[ApiKey]:
        """All keys of an organisation, newest first, revoked ones included."""
        keys: list[ApiKey] = []
        after: Document | None = None
        while True:
            page = await self._collection.find(_BY_ORG, {"org_id": org_id}, descending=True, after=after, limit=_PAGE)
            keys.extend(self._fresh(from_document(document)) for document in page)
            if len(page) < _PAGE:
                return keys
            after = page[-1]

    async def set_active(self, org_id: str, key_id: str, *, active: bool) -> ApiKey:
        """Switch a key on or off: in this process at once, elsewhere within five seconds. Again is a no-op.

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
        """Switch a key off; see `set_active`."""
        return await self.set_active(org_id, key_id, active=False)

    async def delete(self, org_id: str, key_id: str) -> None:
        """Remove a key for good: it is refused at once in this process, elsewhere within five seconds.

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
        """Record the last uses that are known but not yet kept: one write for each key used since the last time."""
        used, self._used = self._used, {}
        try:
            while used:
                key_id, at_ms = next(iter(used.items()))
                await self._touch(key_id, at_ms)
                del used[key_id]
        finally:
            self._used = used | self._used

    async def run(self, *, interval_s: float = _FLUSH_S) -> None:
        """Record last uses now and then, and once more when cancelled; to be started in the server's task group.

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
        except StoreError as error:  # a last use is worth no outage; it stays known and is tried again
            _log.warning("last use of keys not recorded", error=str(error))

    async def _touch(self, key_id: str, at_ms: int) -> None:
        document = await self._collection.get(key_id)
        if document is None or document["last_used_ms"] >= at_ms:
            return
        try:
            await self._collection.replace({**document, "last_used_ms": at_ms})
        except VersionConflict:
            self._used.setdefault(key_id, at_ms)  # somebody changed the key meanwhile: the next round will do

    async def _change(self, org_id: str, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        def changed(document: Document) -> Document:
            before = from_document(_own(document, org_id, key_id))
            after = change(before)
            return document if after == before else to_document(after)

        return from_document(_own(await edit(self._collection, key_id, changed), org_id, key_id))

    def _forget(self, org_id: str, key_id: str) -> None:
        """Trust nothing that was read before: also when a write failed or was cancelled, for it may have been applied.

        Called after the write only, so that what was read before it cannot enter the cache after it.
        """
        self._cache.clear()
        self._changes.tell(Change(org_id=org_id, key_id=key_id))

    def _fresh(self, record: ApiKey) -> ApiKey:
        return replace(record, last_used_ms=max(record.last_used_ms, self._used.get(record.id, 0)))


def _own(document: Document | None, org_id: str, key_id: str) -> Document:
    if document is None or document["org_id"] != org_id:
        raise KeyMissing(f"key {key_id!r:.80}: the organisation has no such key; list its keys")
    return document
