"""What the tests of the collections' contract store: things, which have an owner and a rank."""

from __future__ import annotations

from typing import Any

from storage.collection import Collection, CollectionSpec, Document, Index
from storage.ids import new_id

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_RANK = Index(name="by_rank", fields=("owner", "rank"))
BY_EMAIL = Index(name="by_email", fields=("email",), unique=True, sparse=True)
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER, BY_RANK, BY_EMAIL))


def thing(owner: str = "alice", rank: float = 0, **more: Any) -> Document:
    """A thing, not stored yet."""
    return {"_id": new_id(), "owner": owner, "rank": rank, **more}


async def kept(things: Collection, *documents: Document) -> list[Document]:
    """The documents as stored."""
    return [await things.insert(document) for document in documents]
