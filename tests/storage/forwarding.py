"""A collection in front of a real one, for tests that count its calls, hold them up or let them fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from storage.collection import Collection, Document, Index, Value

Kind = Literal["read", "write", "ping"]


class ForwardingCollection(Collection):
    """Passes every call on to a real collection."""

    def __init__(self, real: Collection) -> None:
        self.spec = real.spec
        self._real = real

    async def before(self, kind: Kind) -> None:
        """Comes before each call; what it raises, the caller gets instead of an answer."""

    async def insert(self, document: Mapping[str, Any]) -> Document:
        await self.before("write")
        return await self._real.insert(document)

    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        await self.before("write")
        return await self._real.insert_all(documents)

    async def get(self, document_id: str) -> Document | None:
        await self.before("read")
        return await self._real.get(document_id)

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
        await self.before("read")
        return await self._real.find(index, equal, descending=descending, after=after, low=low, high=high, limit=limit)

    async def replace(self, document: Mapping[str, Any]) -> Document:
        await self.before("write")
        return await self._real.replace(document)

    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        await self.before("write")
        return await self._real.delete(document_id, version=version)

    async def ping(self) -> None:
        await self.before("ping")
        await self._real.ping()

    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        await self.before("read")
        return await self._real.count(index, equal)

    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        await self.before("write")
        return await self._real.purge(index, equal, below=below, limit=limit)
