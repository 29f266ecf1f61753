"""Optimistic update of one document, repeated while other writers win."""

from __future__ import annotations

from collections.abc import Callable

from storage.backoff import Backoff
from storage.collection import Collection, Document
from storage.errors import DocumentMissing, VersionConflict

_ATTEMPTS = 100


async def edit(collection: Collection, document_id: str, change: Callable[[Document], Document]) -> Document | None:
    """Read a document, change it and write it; repeat if another writer changed it in between.

    Args:
        collection: The collection of the document.
        document_id: The id of the document.
        change: Returns the new document, or its argument itself if nothing is to be written. Its errors propagate.

    Returns:
        The document after the update; None if it does not exist.

    Raises:
        StoreError: The store failed, or the document was changed a hundred times in between.
    """
    backoff = Backoff()
    while True:
        before = await collection.get(document_id)
        if before is None:
            return None
        after = change(before)
        if after is before:
            return before
        try:
            return await collection.replace(after)
        except DocumentMissing:
            return None
        except VersionConflict:
            if backoff.failed + 1 == _ATTEMPTS:
                raise
            await backoff.wait()
