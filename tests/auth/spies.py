"""A collection that counts, fails or halts on request, around a real one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from storage.collection import Collection, Document, Index, Value
from storage.errors import StoreError, StoreUnavailable


class SpyCollection(Collection):
    """Passes every call on to a real collection.

    Attributes:
        reads: Calls of `get` and `find` so far.
        writes: Calls that change something so far.
        failure: Raised by each call if set.
        after_find: Awaited between a find and its return if set.
        before_replace: Awaited before a replace if set.
        fail_writes_from: Number of the first write that fails, and all after it; 0 for none.
    """

    def __init__(self, real: Collection) -> None:
        self.spec = real.spec
        self._real = real
        self.reads = 0
        self.writes = 0
        self.failure: StoreError | None = None
        self.after_find: Callable[[], Awaitable[None]] | None = None
        self.before_replace: Callable[[], Awaitable[None]] | None = None
        self.fail_writes_from = 0

    async def insert(self, document: Mapping[str, Any]) -> Document:
        self._write()
        return await self._real.insert(document)

    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        self._write()
        return await self._real.insert_all(documents)

    async def get(self, document_id: str) -> Document | None:
        self._read()
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
        self._read()
        found = await self._real.find(index, equal, descending=descending, after=after, low=low, high=high, limit=limit)
        if self.after_find is not None:
            await self.after_find()
        return found

    async def replace(self, document: Mapping[str, Any]) -> Document:
        self._write()
        if self.before_replace is not None:
            await self.before_replace()
        return await self._real.replace(document)

    async def delete(self, document_id: str, *, version: int | None = None) -> bool:
        self._write()
        return await self._real.delete(document_id, version=version)

    async def count(self, index: Index, equal: Mapping[str, Value] | None = None) -> int:
        self._read()
        return await self._real.count(index, equal)

    async def purge(
        self, index: Index, equal: Mapping[str, Value] | None = None, *, below: Value, limit: int = 1000
    ) -> int:
        self._write()
        return await self._real.purge(index, equal, below=below, limit=limit)

    async def ping(self) -> None:
        self._fail()
        await self._real.ping()

    def _read(self) -> None:
        self.reads += 1
        self._fail()

    def _write(self) -> None:
        self.writes += 1
        self._fail()
        if self.fail_writes_from and self.writes >= self.fail_writes_from:
            raise StoreUnavailable("gone in the middle")

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
