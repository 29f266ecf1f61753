"""An API key as a value: what is kept of it, how it is shown, and what its text looks like."""

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
    """A key as it is kept.

    Attributes:
        id: Id of the record.
        org_id: Organisation that the key acts for.
        name: What its maker calls it.
        masked: `cm_` with the first and the last four characters, to recognise it by.
        digest: SHA-256 of the whole key, in hex.
        created_by: Id of the user who made it.
        created_ms: When, in epoch milliseconds.
        is_active: Whether it is accepted.
        expires_ms: From when on it is refused, in epoch milliseconds; 0 means never.
        last_used_ms: When it was last accepted, to about a minute; 0 means never.
        updated_ms: When it was last switched on or off, in epoch milliseconds; 0 means never.
        scopes: What it is good for.
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
        """Whether the key is good at that time, in epoch milliseconds."""
        return self.is_active and (self.expires_ms == 0 or at_ms < self.expires_ms)

    @property
    def principal(self) -> Principal:
        """Who calls with this key, as long as its maker owns the organisation."""
        return Principal(org_id=self.org_id, user_id=self.created_by, key_id=self.id, scopes=self.scopes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made: the only time that its text is known.

    Attributes:
        record: The key as it is kept.
        plain: The key itself, for its user's eyes; kept out of `repr`.
    """

    record: ApiKey
    plain: str = field(repr=False)


def well_formed(text: str) -> bool:
    """Whether a text has the form of a key: `cm_` and 43 characters of URL-safe base64."""
    return _FORM.fullmatch(text) is not None


def masked(plain: str) -> str:
    """A key as it may be shown: `cm_Ab12…x9Yz`."""
    return f"{plain[:7]}…{plain[-4:]}"


def digest_of(plain: str) -> str:
    """SHA-256 of a well-formed key, in hex."""
    return hashlib.sha256(plain.encode("ascii")).hexdigest()


def to_document(record: ApiKey) -> Document:
    """A key as the store has it."""
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
    """A key from what the store has."""
    fields = {name: value for name, value in document.items() if name not in {"_id", "scopes"}}
    # Keys made before there were scopes are good for everything, as they were.
    return ApiKey(id=document["_id"], scopes=frozenset(map(Scope, document.get("scopes", ALL_SCOPES))), **fields)
