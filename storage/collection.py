"""The port: collections of documents with declared indexes, and the database that holds them.

A document is a JSON object with a str `_id` and an int `version`. Every query names one of the collection's indexes,
gives values for a prefix of its fields and gets documents in the order of the remaining ones, so none can scan.
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
        unique: No two documents have the same values.
        sparse: A document that lacks the field, of which there is one, is not in the index; otherwise it is refused.
    """

    name: str
    fields: tuple[str, ...]
    unique: bool = False
    sparse: bool = False

    @property
    def order(self) -> tuple[str, ...]:
        """The fields that order its documents, without ties."""
        return self.fields if self.unique or "_id" in self.fields else (*self.fields, "_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """What a domain store declares: the collection's name and its indexes."""

    name: str
    indexes: tuple[Index, ...] = ()


class Collection(ABC):
    """Documents of one kind.

    Every method raises StoreUnavailable, StoreFull, StoreReadOnly or StoreCorrupt when the store fails. A write
    that was begun is waited for, cancelled or not; only after a StoreUnavailable it may or may not have happened.
    """

    spec: CollectionSpec

    @abstractmethod
    async def insert(self, document: Mapping[str, Any]) -> Document:
        """Store a new document and return it as stored. Its version is 1.

        Raises:
            DuplicateKey: Its id, or its values under a unique index, are there already.
            InvalidDocument: It cannot be stored.
        """

    @abstractmethod
    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store new documents at the price of few. Their version is 1.

        After an error any of them may be stored. It may be called again with the same ones, so it suits documents
        that nobody else writes.

        Returns:
            Ids of those that were there already and are left as they stand; after a lost answer perhaps by this call.

        Raises:
            DuplicateKey: Values of one under a unique index are there already.
            InvalidDocument: One of them cannot be stored.
        """

    @abstractmethod
    async def get(self, document_id: str) -> Document | None:
        """The document of that id."""

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
        """Documents by an index.

        Args:
            index: One that the collection declares.
            equal: Values for a prefix of its fields. The rest of the fields give the order, `_id` breaks ties.
            descending: The order reversed.
            after: Where the page before ended: its last document, or its values of the ordering fields.
            low: Least value of the first field after the prefix. Integers come before all texts.
            high: The first value of that field which is too high.
            limit: Most documents, 1 to 10,000.

        Raises:
            InvalidQuery: The index is not declared or the values do not fit it.
        """

    @abstractmethod
    async def replace(self, document: Mapping[str, Any]) -> Document:
        """Store a document in place of the one it was made from; the result is one version on.

        Raises:
            VersionConflict: The stored version is not the document's.
            DocumentMissing: There is none.
            DuplicateKey: Its values under a unique index are another document's.
            InvalidDocument: It cannot be stored.
        """

    @abstractmethod
    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        """Remove a document; False if there is none.

        Raises:
            VersionConflict: A version is given and the stored one is another.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Return if documents can be read and written now.

        Raises:
            StoreError: They cannot, and why.
        """

    @abstractmethod
    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        """How many documents `find` would give without a limit.

        Raises:
            InvalidQuery: As with `find`.
        """

    @abstractmethod
    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        """Remove documents whose first field after the prefix is below a value, lowest first.

        Returns:
            How many were removed; fewer than `limit` means that none is left.

        Raises:
            InvalidQuery: As with `find`.
        """


class StoredCollection(Collection):
    """A collection as its database gives it: what domain stores use, and what copying a store needs besides."""

    @abstractmethod
    async def walk(self, *, after: str = "", limit: int = 100) -> list[Document]:
        """Documents with an id beyond one, in the order of their ids' code points.

        Raises:
            InvalidQuery: The limit is not from 1 to 10,000, or the id is none.
        """

    @abstractmethod
    async def put(self, document: Mapping[str, Any]) -> Document:
        """Store a new document with the version that it says, as if its history had been here.

        Raises:
            DuplicateKey: As with `insert`.
            InvalidDocument: It cannot be stored, or says no version.
        """


class Database(ABC):
    """Collections under one roof. An async context manager: opened on entry, closed at the end."""

    @abstractmethod
    async def open(self) -> None:
        """Make it ready for use.

        Raises:
            StoreError: It cannot be, and why.
        """

    @abstractmethod
    async def collection(self, spec: CollectionSpec) -> StoredCollection:
        """The collection as declared; it and its indexes are made if they are missing.

        Raises:
            InvalidQuery: The declaration cannot be, or the store has an index of that name with other fields.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreError: It does not.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Finish the writes that were begun and let go of everything; a no-op the second time."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
