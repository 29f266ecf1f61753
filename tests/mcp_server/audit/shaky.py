"""A real collection whose store can be taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from storage.collection import Collection, Document, Index, Value
from storage.errors import StoreUnavailable


class Shaky(Collection):
    """Passes everything on; while `down`, nothing; while `mute`, it does the writes but their answers are lost."""

    def __init__(self, inner: Collection) -> None:
        self.spec = inner.spec
        self._inner = inner
        self.down = False
        self.mute = False
        self.hangs = False

    async def insert(self, document: Mapping[str, Any]) -> Document:
        await self._check()
        stored = await self._inner.insert(document)
        if self.mute:
            raise StoreUnavailable("the answer was lost")
        return stored

    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        await self._check()
        there = await self._inner.insert_all(documents)
        if self.mute:
            raise StoreUnavailable("the answer was lost")
        return there

    async def get(self, document_id: str) -> Document | None:
        await self._check()
        return await self._inner.get(document_id)

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
        await self._check()
        return await self._inner.find(index, equal, descending=descending, after=after, low=low, high=high, limit=limit)

    async def replace(self, document: Mapping[str, Any]) -> Document:
        await self._check()
        return await self._inner.replace(document)

    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        await self._check()
        return await self._inner.delete(document_id, version=version)

    async def ping(self) -> None:
        await self._check()
        await self._inner.ping()

    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        await self._check()
        return await self._inner.count(index, equal)

    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        await self._check()
        return await self._inner.purge(index, equal, below=below, limit=limit)

    async def _check(self) -> None:
        if self.hangs:
            await anyio.sleep_forever()
        if self.down:
            raise StoreUnavailable("the store is away")
