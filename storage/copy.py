"""Copying a whole store into another one of any kind; an interrupted copy can be repeated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import anyio

from .collection import CollectionSpec, Database, Document, StoredCollection
from .errors import InvalidQuery, StoreError, StoreUnavailable

_BATCH = 200
_AT_ONCE = 16


async def copy_store(
    source: Database, target: Database, specs: Sequence[CollectionSpec], *, tell: Callable[[str, int], None]
) -> dict[str, int]:
    """Copy every document of every collection, including versions. Nothing else may use either store meanwhile.

    Args:
        source: The open source; it is only read, but missing collections are created.
        target: The open target. Documents that it has already must equal those of the source.
        specs: The collections.
        tell: Called with a collection's name and the number of its documents that are in the target so far.

    Returns:
        The number of documents of each collection, in both stores.

    Raises:
        InvalidQuery: The target has other documents; nothing was copied.
        StoreUnavailable: The stores differ after copying because something else used one of them, or a store failed.
        StoreError: A store failed.
    """
    pairs = [(await source.collection(spec), await target.collection(spec)) for spec in specs]
    # Compare all collections first, so that a target in use is refused before anything is written to it.
    for old, new in pairs:
        async with aclosing(_missing(old, new)) as batches:
            async for _ in batches:
                pass
    return {old.spec.name: await _copy(old, new, tell) for old, new in pairs}


async def _copy(old: StoredCollection, new: StoredCollection, tell: Callable[[str, int], None]) -> int:
    done = 0
    async with aclosing(_missing(old, new)) as batches:
        async for seen, missing in batches:
            for start in range(0, len(missing), _AT_ONCE):
                await _put(new, missing[start : start + _AT_ONCE])
            done += seen
            tell(old.spec.name, done)
    async with aclosing(_missing(old, new)) as batches:
        counted = 0
        async for seen, missing in batches:
            counted += seen
            if missing:
                raise StoreUnavailable(
                    f"Collection {old.spec.name} changed while it was copied: stop all servers, then copy again"
                )
    return counted


async def _put(new: StoredCollection, documents: list[Document]) -> None:
    failures: list[StoreError] = []

    async def put(document: Document) -> None:
        try:
            await new.put(document)
        except StoreError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for document in documents:
            tasks.start_soon(put, document)
    if failures:
        raise failures[0]


async def _missing(old: StoredCollection, new: StoredCollection) -> AsyncGenerator[tuple[int, list[Document]]]:
    """Yield, for each batch of the old collection, its size and the documents that the new collection lacks.

    Raises:
        InvalidQuery: The new collection has a document that is missing or different in the old one.
    """
    after = ""
    while True:
        batch = await old.walk(after=after, limit=_BATCH)
        last = batch[-1]["_id"] if len(batch) == _BATCH else None
        there = await _between(new, after, last)
        for document_id in there.keys() - {document["_id"] for document in batch}:
            raise _differs(new, document_id)
        for document in batch:
            if there.get(document["_id"], document) != document:
                raise _differs(new, document["_id"])
        if batch:
            yield len(batch), [document for document in batch if document["_id"] not in there]
        if last is None:
            return
        after = last


async def _between(collection: StoredCollection, after: str, last: str | None) -> dict[str, Document]:
    """Read the documents with ids after one and up to another, or to the end if None; at most a batch and one more."""
    found = await collection.walk(after=after, limit=_BATCH + 1)
    return {document["_id"]: document for document in found if last is None or document["_id"] <= last}


def _differs(collection: StoredCollection, document_id: str) -> InvalidQuery:
    return InvalidQuery(
        f"Document {document_id!r} of {collection.spec.name} in the target differs from the source: "
        "copy into an empty store"
    )
