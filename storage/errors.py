"""Errors of the store: one hierarchy, the same for every adapter."""

from __future__ import annotations


class StoreError(Exception):
    """An operation of the store failed.

    Attributes:
        message: What is wrong and the way out, in one line.
        retryable: Whether the same call may succeed if it is retried later.
    """

    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class DuplicateKey(StoreError):
    """Another document has the same values under a unique index.

    Attributes:
        index: The index's name; `_id` for the id itself.
    """

    def __init__(self, collection: str, index: str) -> None:
        super().__init__(f"Another document in {collection} has the same {index}; use another value")
        self.index = index


class VersionConflict(StoreError):
    """The document was changed since it was read: read it again and repeat the change."""


class DocumentMissing(StoreError):
    """The document does not exist."""


class InvalidDocument(StoreError):
    """The document cannot be stored; a bug of the caller."""


class InvalidQuery(StoreError):
    """The query or the declaration does not fit the collection; a bug of the caller."""


class StoreUnavailable(StoreError):
    """The store does not answer at the moment."""

    retryable = True


class StoreFull(StoreError):
    """The store has no space left; documents can still be read and deleted."""


class StoreReadOnly(StoreError):
    """The store cannot be written."""


class StoreCorrupt(StoreError):
    """The store is damaged, or is not a store at all."""


class StoreNewer(StoreError):
    """A newer release wrote the store; this one cannot read its format."""


class StoreLocked(StoreError):
    """Another process has the store open."""
