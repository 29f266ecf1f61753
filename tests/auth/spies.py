"""A collection that counts, fails or halts on request, around a real one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from storage.collection import Collection, Document, Index, Value
from storage.errors import StoreError, StoreUnavailable
from tests.storage.forwarding import ForwardingCollection, Kind


class SpyCollection(ForwardingCollection):
    """Passes every call on to a real collection.

    Attributes:
        reads: Calls that read so far.
        writes: Calls that change something so far.
        failure: Raised by each call if set.
        after_find: Awaited between a find and its return if set.
        before_replace: Awaited before a replace if set.
        fail_writes_from: Number of the first write that fails, and all after it; 0 for none.
    """

    def __init__(self, real: Collection) -> None:
        super().__init__(real)
        self.reads = 0
        self.writes = 0
        self.failure: StoreError | None = None
        self.after_find: Callable[[], Awaitable[None]] | None = None
        self.before_replace: Callable[[], Awaitable[None]] | None = None
        self.fail_writes_from = 0

    async def before(self, kind: Kind) -> None:
        self.reads += kind == "read"
        self.writes += kind == "write"
        if self.failure is not None:
            raise self.failure
        if kind == "write" and self.fail_writes_from and self.writes >= self.fail_writes_from:
            raise StoreUnavailable("gone in the middle")

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
        found = await super().find(index, equal, descending=descending, after=after, low=low, high=high, limit=limit)
        if self.after_find is not None:
            await self.after_find()
        return found

    async def replace(self, document: Mapping[str, Any]) -> Document:
        if self.before_replace is not None:
            await self.before_replace()
        return await super().replace(document)
