"""Changing one document against its version, as often as others are faster."""

from __future__ import annotations

from collections.abc import Callable

from storage.backoff import Backoff
from storage.collection import Collection, Document
from storage.errors import DocumentMissing, VersionConflict

_ATTEMPTS = 100


async def edit(collection: Collection, document_id: str, change: Callable[[Document], Document]) -> Document | None:
    """Read a document, change it, write it; again while somebody else changes it in between.

    Args:
        collection: Where it is.
        document_id: Which one.
        change: Gives the new document, or the very one that it got if nothing is to be written. What it raises passes.

    Returns:
        The document as it stands now; None if there is none.

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
