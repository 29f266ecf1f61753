"""The storage interface: collections of documents with declared indexes, and the database that holds them.

A document is a JSON object with a str `_id` and an int `version`. Every query names one of the collection's indexes,
gives values for a prefix of its fields and gets documents ordered by the remaining ones, so no query needs a full scan.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

Document: TypeAlias = dict[str, Any]
Value: TypeAlias = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A declared index.

    Attributes:
        name: Unique within its collection.
        fields: Top-level fields whose values are str or int; `_id` and `version` may be among them.
        unique: No two documents may have the same values.
        sparse: Documents without the index's only field are left out of it; otherwise they are refused.
    """

    name: str
    fields: tuple[str, ...]
    unique: bool = False
    sparse: bool = False

    @property
    def order(self) -> tuple[str, ...]:
        """The fields that order the documents, including one that breaks ties."""
        return self.fields if self.unique or "_id" in self.fields else (*self.fields, "_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """The declaration of a collection: its name and its indexes."""

    name: str
    indexes: tuple[Index, ...] = ()


class Collection(ABC):
    """Documents of one kind.

    Every method raises StoreUnavailable, StoreFull, StoreReadOnly or StoreCorrupt when the store fails. A write that
    has begun is completed even when the caller is cancelled; only after StoreUnavailable its outcome is unknown.
    """

    spec: CollectionSpec

    @abstractmethod
    async def insert(self, document: Mapping[str, Any]) -> Document:
        """Store a new document and return it as stored. Its version is 1.

        Raises:
            DuplicateKey: Another document has the same id, or the same values under a unique index.
            InvalidDocument: The document cannot be stored.
        """

    @abstractmethod
    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store new documents in one batch. Their version is 1.

        After an error any of them may be stored. The call can be repeated with the same documents, so it suits
        documents that have a single writer.

        Returns:
            Ids of the documents that existed already and were left unchanged. If an answer was lost and the write was
            repeated, this call may have inserted them itself.

        Raises:
            DuplicateKey: A document has the same values under a unique index as another one.
            InvalidDocument: One of them cannot be stored.
        """

    @abstractmethod
    async def get(self, document_id: str) -> Document | None:
        """Return the document with this id; None if there is none."""

    @abstractmethod
    async def find(
        self,
        index: Index,
        equal: Mapping[str, Value] | None = None,
        *,
        descending: bool = False,
        after: Mapping[str, Any] | None = None,
        low: Value | None = None,
        high: Value | None = None,
        limit: int = 100,
    ) -> list[Document]:
        """Find documents by an index.

        Args:
            index: An index that the collection declares.
            equal: Values for a prefix of its fields. The other fields give the order, `_id` breaks ties.
            descending: Reverse the order.
            after: The end of the previous page: its last document, or that document's values of the ordering fields.
            low: Lower bound, inclusive, of the first field after the prefix. Integers sort before all texts.
            high: Upper bound, exclusive, of that field.
            limit: The maximum number of documents, 1 to 10,000.

        Raises:
            InvalidQuery: The index is not declared, or the values do not fit it.
        """

    @abstractmethod
    async def replace(self, document: Mapping[str, Any]) -> Document:
        """Replace a document if its stored version is still the same; return it with the next version.

        Raises:
            VersionConflict: The stored version is not the document's.
            DocumentMissing: The document does not exist.
            DuplicateKey: Another document has the same values under a unique index.
            InvalidDocument: The document cannot be stored.
        """

    @abstractmethod
    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        """Delete a document; return False if it does not exist.

        Raises:
            VersionConflict: A version is given and the stored version differs.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Check that documents can be read and written now.

        Raises:
            StoreError: They cannot; the message says why.
        """

    @abstractmethod
    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        """Count the documents that `find` would return without a limit.

        Raises:
            InvalidQuery: As with `find`.
        """

    @abstractmethod
    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        """Delete documents whose first field after the prefix is below a value, lowest first.

        Returns:
            The number of deleted documents; fewer than `limit` means that none are left.

        Raises:
            InvalidQuery: As with `find`.
        """


class StoredCollection(Collection):
    """A collection with the additional operations that copying a store needs."""

    @abstractmethod
    async def walk(self, *, after: str = "", limit: int = 100) -> list[Document]:
        """List documents with ids greater than `after`, ordered by the code points of their ids.

        Raises:
            InvalidQuery: The limit is not from 1 to 10,000, or the id is invalid.
        """

    @abstractmethod
    async def put(self, document: Mapping[str, Any]) -> Document:
        """Store a new document and keep its version, for copies from another store.

        Raises:
            DuplicateKey: As with `insert`.
            InvalidDocument: The document cannot be stored, or has no version.
        """


class Database(ABC):
    """A database with collections. An async context manager: opened on entry, closed on exit."""

    @abstractmethod
    async def open(self) -> None:
        """Open the database.

        Raises:
            StoreError: It cannot be opened; the message says why.
        """

    @abstractmethod
    async def collection(self, spec: CollectionSpec) -> StoredCollection:
        """Return the declared collection; create it and its indexes if they are missing.

        Raises:
            InvalidQuery: The declaration is invalid, or the store has an index of that name with other fields.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            StoreError: It does not.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Complete writes that have begun and release all resources. Idempotent."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
