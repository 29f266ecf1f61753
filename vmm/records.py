"""The sandboxes' records in the store: the domain store of `Sandbox`, written once on the `Collection` port."""

from __future__ import annotations

from collections.abc import AsyncIterator

from storage.collection import Collection, CollectionSpec, Index
from storage.errors import DocumentMissing, VersionConflict

from .errors import Conflict
from .sandbox import Sandbox, State

_BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
_BY_NAME = Index(name="by_name", fields=("owner", "name", "_id"))
_BY_STATE = Index(name="by_state", fields=("state", "_id"))
_BATCH = 500

SANDBOXES = CollectionSpec(name="sandboxes", indexes=(_BY_OWNER, _BY_NAME, _BY_STATE))


class Records:
    """Reads and writes of records. Every write names the version that it saw."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def insert(self, sandbox: Sandbox) -> None:
        """Keep a new record."""
        await self._collection.insert(sandbox.document())

    async def get(self, owner: str, sandbox_id: str) -> Sandbox | None:
        """The owner's sandbox of that id; somebody else's is none."""
        document = await self._collection.get(sandbox_id)
        return Sandbox.of(document) if document is not None and document["owner"] == owner else None

    async def named(self, owner: str, name: str) -> list[Sandbox]:
        """The owner's sandboxes of that name, without deleted ones."""
        return [sandbox async for sandbox in self._all(_BY_NAME, {"owner": owner, "name": name})]

    async def owned(self, owner: str) -> list[Sandbox]:
        """All of the owner's sandboxes, newest first, without deleted ones."""
        return [sandbox async for sandbox in self._all(_BY_OWNER, {"owner": owner})]

    async def in_state(self, state: State) -> list[Sandbox]:
        """Every owner's sandboxes in a state."""
        return [sandbox async for sandbox in self._all(_BY_STATE, {"state": state.value}, deleted=True)]

    async def save(self, sandbox: Sandbox) -> Sandbox:
        """Replace the record if nobody changed it since it was read.

        Raises:
            Conflict: Somebody did, or it is gone.
        """
        try:
            document = await self._collection.replace(sandbox.document())
        except (VersionConflict, DocumentMissing) as error:
            raise Conflict(f"Sandbox {sandbox.id} was changed meanwhile", hint="Look at it and try again") from error
        return Sandbox.of(document)

    async def remove(self, sandbox_id: str) -> None:
        """Forget a record; a no-op if there is none."""
        await self._collection.delete(sandbox_id)

    async def _all(self, index: Index, equal: dict[str, str], *, deleted: bool = False) -> AsyncIterator[Sandbox]: ...
