"""The volumes' records in the store."""

from __future__ import annotations

from collections.abc import Callable

from storage.backoff import Backoff
from storage.collection import Collection, CollectionSpec, Document, Index
from storage.documents import is_value
from storage.errors import DocumentMissing, DuplicateKey, VersionConflict

from ..errors import Conflict, NotFound
from ..repeated_warnings import RepeatedWarnings
from ..sandboxes.store import translate_store_errors
from .volume import Volume

_BY_NAME = Index(name="by_name", fields=("host", "owner", "name"), unique=True)
_BATCH = 500
_TRIES = 100

VOLUMES = CollectionSpec(name="volumes", indexes=(_BY_NAME,))


class VolumeStore:
    """Reads and writes the records of one host's volumes, whose files no other host has.

    When the store fails, every method raises Unavailable, or HostExhausted if the store's disk is full.

    Args:
        collection: Of VOLUMES.
        host: Id of the host, which stays with the data directory.
    """

    def __init__(self, collection: Collection, *, host: str) -> None:
        self._collection = collection
        self._host = host
        self._warnings = RepeatedWarnings()

    async def insert(self, volume: Volume) -> None:
        """Store a new record.

        Raises:
            Conflict: Another volume of the owner has the name.
        """
        try:
            with translate_store_errors():
                await self._collection.insert(self._document(volume))
        except DuplicateKey as error:
            raise Conflict(
                f"There is already a volume {volume.name}", hint="Choose another name, or delete that volume"
            ) from error

    async def get(self, owner: str, ref: str) -> Volume:
        """Return the owner's volume with this name or id.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Damaged: Its record is damaged.
        """
        if is_value(ref):
            with translate_store_errors():
                by_id = await self._collection.get(ref)
                named = await self._collection.find(_BY_NAME, {"host": self._host, "owner": owner, "name": ref})
            for document in ([by_id] if by_id is not None else []) + named:
                if document.get("owner") == owner and document.get("host") == self._host:
                    return Volume.of(document)
        raise NotFound("Volume not found", hint="List the volumes, or create one")

    async def find(self, volume_id: str) -> Volume | None:
        """Return the volume with this id on this host, whoever owns it."""
        with translate_store_errors():
            document = await self._collection.get(volume_id)
        return None if document is None or document.get("host") != self._host else Volume.of(document)

    async def owned(self, owner: str) -> list[Volume]:
        """Return all of the owner's volumes, by name."""
        return await self._all({"owner": owner})

    async def all(self) -> list[Volume]:
        """Return everybody's volumes on this host."""
        return await self._all({})

    async def attached_to(self, owner: str, sandbox_id: str) -> list[Volume]:
        """Return the volumes that a sandbox of the owner has, in the order of their paths."""
        found = [volume for volume in await self.owned(owner) if sandbox_id in volume.attached]
        return sorted(found, key=lambda volume: volume.attached[sandbox_id].partition(" ")[2])

    async def change(self, volume_id: str, change: Callable[[Volume], Volume]) -> Volume:
        """Change the current record; concurrent changes by others are kept.

        Args:
            volume_id: The volume.
            change: Turns the current record into the new one; called again after a lost race. Its errors pass through.

        Raises:
            NotFound: It is gone.
            Conflict: Many are changing it at once.
        """
        backoff = Backoff()
        while backoff.failed < _TRIES:
            found = await self.find(volume_id)
            if found is None:
                raise NotFound("Volume not found", hint="List the volumes, or create one")
            wanted = change(found)
            if wanted == found:
                return found
            try:
                with translate_store_errors():
                    return Volume.of(await self._collection.replace(self._document(wanted)))
            except (VersionConflict, DocumentMissing):
                await backoff.wait()
        raise Conflict(f"Volume {volume_id} is being changed by many at once", hint="Try again")

    async def remove(self, volume_id: str) -> None:
        """Delete a record; a no-op if there is none."""
        with translate_store_errors():
            await self._collection.delete(volume_id)

    async def _all(self, equal: dict[str, str]) -> list[Volume]:
        found: list[Volume] = []
        last: Document | None = None
        while True:
            with translate_store_errors():
                batch = await self._collection.find(_BY_NAME, {"host": self._host, **equal}, after=last, limit=_BATCH)
            for document in batch:
                # A record that cannot be read must not hide the others.
                with self._warnings.about("volume's record cannot be read", volume=str(document["_id"])):
                    found.append(Volume.of(document))
            if len(batch) < _BATCH:
                return found
            last = batch[-1]

    def _document(self, volume: Volume) -> Document:
        return {**volume.document(), "host": self._host}
