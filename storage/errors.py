"""What can go wrong with the store: one tree, the same for every adapter."""

from __future__ import annotations


class StoreError(Exception):
    """The store did not do what it was asked to.

    Attributes:
        message: What is wrong and the way out, in one line.
        retryable: Whether the same call may succeed a little later.
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
    """The document was changed since it was read: read it again and decide anew."""


class DocumentMissing(StoreError):
    """There is no document of that id."""


class InvalidDocument(StoreError):
    """The document cannot be stored as it is; a mistake of the caller."""


class InvalidQuery(StoreError):
    """The query or the declaration does not fit the collection; a mistake of the caller."""


class StoreUnavailable(StoreError):
    """The store does not answer now."""

    retryable = True


class StoreFull(StoreError):
    """No room is left for the store; what is stored can still be read and deleted."""


class StoreReadOnly(StoreError):
    """The store's files may not be written."""


class StoreCorrupt(StoreError):
    """The store's file is damaged, or is no store at all."""


class StoreNewer(StoreError):
    """A later release wrote the store; this one would misread it."""


class StoreLocked(StoreError):
    """Another process has the store open."""
