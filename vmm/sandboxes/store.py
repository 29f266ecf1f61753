"""The sandboxes' records in the store: the domain store of `Sandbox`, written once on the `Collection` port."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.backoff import Backoff
from storage.collection import Collection, CollectionSpec, Document, Index
from storage.documents import is_value
from storage.errors import DocumentMissing, DuplicateKey, StoreError, StoreFull, StoreUnavailable, VersionConflict

from ..errors import Conflict, Damaged, HostExhausted, NotFound, Unavailable
from ..repeated_warnings import RepeatedWarnings
from .sandbox import Sandbox, State

_BY_OWNER = Index(name="by_owner", fields=("host", "owner", "_id"))
_BY_NAME = Index(name="by_name", fields=("host", "owner", "name", "_id"))
_BY_STATE = Index(name="by_state", fields=("host", "state", "_id"))
_BATCH = 500
_TRIES = 100

SANDBOXES = CollectionSpec(name="sandboxes", indexes=(_BY_OWNER, _BY_NAME, _BY_STATE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A record that cannot be read.

    Attributes:
        id: Whose.
        machine: The directory of that sandbox's machine; empty if the record does not say.
    """

    id: str
    machine: str


class SandboxStore:
    """Reads and writes of one host's records. Every write names the version that it saw.

    Several hosts may share a store. The machines of another one cannot be reached from here, so its records are none
    of ours: they are neither shown nor adopted nor cleaned up.

    When the store fails, every method raises Unavailable, or HostExhausted if the store has no room left. A damaged
    record is told to who asks for it by its id, and to the operator; where many are asked for, the others are given.

    Args:
        collection: Of SANDBOXES.
        host: Whose records; an id that stays with the data directory.
    """

    def __init__(self, collection: Collection, *, host: str) -> None:
        self._collection = collection
        self._host = host
        self._warnings = RepeatedWarnings()

    async def insert(self, sandbox: Sandbox) -> None:
        """Keep a new record."""
        with translate_store_errors():
            await self._collection.insert(self._document(sandbox))

    async def get(self, owner: str, sandbox_id: str) -> Sandbox | None:
        """The owner's sandbox of that id; somebody else's is none.

        Raises:
            Damaged: Its record is.
        """
        document = await self._document_of(sandbox_id)
        return None if document is None or document.get("owner") != owner else Sandbox.of(document)

    async def find(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox of that id on this host, whoever owns it.

        Raises:
            Damaged: Its record is.
        """
        document = await self._document_of(sandbox_id)
        return None if document is None else Sandbox.of(document)

    async def named(self, owner: str, name: str) -> list[Sandbox]:
        """The owner's sandboxes of that name, newest first, without deleted ones."""
        # A name comes from outside: what cannot be stored is nobody's name.
        return await self._all(_BY_NAME, {"owner": owner, "name": name}) if is_value(name) else []

    async def owned(self, owner: str) -> list[Sandbox]:
        """All of the owner's sandboxes, newest first, without deleted ones."""
        return await self._all(_BY_OWNER, {"owner": owner})

    async def in_state(self, state: State) -> list[Sandbox]:
        """Every owner's sandboxes in a state, newest first."""
        return await self._all(_BY_STATE, {"state": state.value}, deleted=True)

    async def damaged(self) -> list[Damage]:
        """The records of this host that cannot be read."""
        found: list[Damage] = []
        for document in await self._documents(_BY_OWNER, {}):
            try:
                Sandbox.of(document)
            except Damaged:
                machine = document.get("machine")
                found.append(Damage(id=document["_id"], machine=machine if isinstance(machine, str) else ""))
        return found

    async def save(self, sandbox: Sandbox) -> Sandbox:
        """Replace the record if nobody changed it since it was read.

        Raises:
            Conflict: Somebody did, or it is gone.
        """
        try:
            with translate_store_errors():
                document = await self._collection.replace(self._document(sandbox))
        except (VersionConflict, DocumentMissing) as error:
            raise Conflict(f"Sandbox {sandbox.id} was changed meanwhile", hint="Look at it and try again") from error
        return Sandbox.of(document)

    async def change(self, sandbox_id: str, change: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """Change a record as it is now; what others change at the same time is kept.

        Args:
            sandbox_id: Whose.
            change: From the record to what it should be; called again if somebody was quicker. What it raises passes.

        Raises:
            NotFound: It is gone.
            Conflict: Many change it at once.
        """
        backoff = Backoff()
        while backoff.failed < _TRIES:
            found = await self.find(sandbox_id)
            if found is None:
                raise NotFound(f"There is no sandbox {sandbox_id} any more", hint="List the sandboxes, or create one")
            wanted = change(found)
            try:
                return await self.save(wanted)
            except Conflict:
                await backoff.wait()
        raise Conflict(f"Sandbox {sandbox_id} is being changed by many at once", hint="Try again")

    async def remove(self, sandbox_id: str) -> None:
        """Forget a record; a no-op if there is none."""
        with translate_store_errors():
            await self._collection.delete(sandbox_id)

    async def ping(self) -> None:
        """Return if records can be read and written.

        Raises:
            Unavailable: They cannot, and why.
        """
        with translate_store_errors():
            await self._collection.ping()

    async def _document_of(self, sandbox_id: str) -> Document | None:
        if not is_value(sandbox_id):
            return None
        with translate_store_errors():
            document = await self._collection.get(sandbox_id)
        return None if document is None or document.get("host") != self._host else document

    async def _all(self, index: Index, equal: dict[str, str], *, deleted: bool = False) -> list[Sandbox]:
        found: list[Sandbox] = []
        for document in await self._documents(index, equal):
            # One that cannot be read must not hide the others.
            with self._warnings.about("record cannot be read", sandbox=str(document["_id"])):
                found.append(Sandbox.of(document))
        return [sandbox for sandbox in found if deleted or sandbox.state is not State.DELETED]

    async def _documents(self, index: Index, equal: dict[str, str]) -> list[Document]:
        found: list[Document] = []
        last: Document | None = None
        full = True
        while full:
            with translate_store_errors():
                batch = await self._collection.find(
                    index, {"host": self._host, **equal}, descending=True, after=last, limit=_BATCH
                )
            found += batch
            last = batch[-1] if batch else None
            # What lacks a field that gives the order is damaged, and stands after all others.
            full = last is not None and len(batch) == _BATCH and index.order[-2] in last
        return found

    def _document(self, sandbox: Sandbox) -> Document:
        return {**sandbox.document(), "host": self._host}


@contextmanager
def translate_store_errors() -> Generator[None]:
    """The store's troubles as errors that callers know; a write that lost against another passes."""
    try:
        yield
    except (DuplicateKey, VersionConflict, DocumentMissing):
        raise
    except StoreFull as error:
        raise HostExhausted(error.message, hint="Delete what is not needed on the host's disk") from error
    except StoreError as error:
        hint = "Try again in a moment" if isinstance(error, StoreUnavailable) else ""
        raise Unavailable(error.message, hint=hint) from error
