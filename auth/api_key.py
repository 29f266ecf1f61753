"""API keys as values: the stored record, the masked form and the format of the key's text."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from storage.collection import Document

from .principal import Principal
from .roles import ALL_SCOPES, Scope

_FORM = re.compile(r"cm_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """The stored record of a key.

    Attributes:
        id: Id of the record.
        org_id: Organisation that the key acts for.
        name: Name that its creator gave it.
        masked: `cm_` with the first and the last four characters, to recognise the key by.
        digest: SHA-256 of the whole key, in hex.
        created_by: Id of the user who created it.
        created_ms: Time of creation, in epoch milliseconds.
        is_active: Whether it is accepted.
        expires_ms: Expiry, in epoch milliseconds; 0 means never.
        last_used_ms: When it was last accepted, accurate to about a minute; 0 means never.
        updated_ms: When it was last activated or deactivated, in epoch milliseconds; 0 means never.
        scopes: What the key may do.
        version: Version of the record.
    """

    id: str
    org_id: str
    name: str
    masked: str
    digest: str = field(repr=False)
    created_by: str
    created_ms: int
    is_active: bool = True
    expires_ms: int = 0
    last_used_ms: int = 0
    updated_ms: int = 0
    scopes: frozenset[Scope] = ALL_SCOPES
    version: int = 1

    def accepted(self, at_ms: int) -> bool:
        """Return whether the key is valid at that time, in epoch milliseconds."""
        return self.is_active and (self.expires_ms == 0 or at_ms < self.expires_ms)

    @property
    def principal(self) -> Principal:
        """The caller that this key stands for, as long as its creator owns the organisation."""
        return Principal(org_id=self.org_id, user_id=self.created_by, key_id=self.id, scopes=self.scopes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A newly created key: the only time that its text is known.

    Attributes:
        record: The stored record.
        plain: The key itself, to be shown to its user once; left out of `repr`.
    """

    record: ApiKey
    plain: str = field(repr=False)


def well_formed(text: str) -> bool:
    """Return whether a text has the format of a key: `cm_` and 43 characters of URL-safe base64."""
    return _FORM.fullmatch(text) is not None


def masked(plain: str) -> str:
    """Mask a key for display: `cm_Ab12…x9Yz`."""
    return f"{plain[:7]}…{plain[-4:]}"


def digest_of(plain: str) -> str:
    """Return the SHA-256 of a well-formed key, in hex."""
    return hashlib.sha256(plain.encode("ascii")).hexdigest()


def to_document(record: ApiKey) -> Document:
    """Convert a key to its document in the store."""
    return {
        "_id": record.id,
        "version": record.version,
        "org_id": record.org_id,
        "name": record.name,
        "masked": record.masked,
        "digest": record.digest,
        "created_by": record.created_by,
        "created_ms": record.created_ms,
        "is_active": record.is_active,
        "expires_ms": record.expires_ms,
        "last_used_ms": record.last_used_ms,
        "updated_ms": record.updated_ms,
        "scopes": sorted(record.scopes),
    }


def from_document(document: Document) -> ApiKey:
    """Convert a document of the store to a key."""
    fields = {name: value for name, value in document.items() if name not in {"_id", "scopes"}}
    # Keys that were created before scopes existed keep all their rights.
    return ApiKey(id=document["_id"], scopes=frozenset(map(Scope, document.get("scopes", ALL_SCOPES))), **fields)
