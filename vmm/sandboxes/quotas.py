"""What each owner may have: the operator's word on single owners, kept in the store, over defaults for everybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from storage.backoff import Backoff
from storage.collection import Collection, CollectionSpec, Document
from storage.errors import DocumentMissing, DuplicateKey, VersionConflict

from ..errors import Conflict, InvalidInput
from .limits import OwnerLimits
from .store import translate_store_errors

QUOTAS = CollectionSpec(name="quotas")

_MOST = 2**40
_TRIES = 100


class Quotas:
    """Limits by owner.

    When the store fails, every method raises Unavailable, or HostExhausted if the store has no room left.

    Args:
        defaults: For owners of whom nothing else is said, and for what is not said of the others.
        collection: Of QUOTAS; without one, the defaults hold for everybody.
    """

    def __init__(self, defaults: OwnerLimits, collection: Collection | None = None) -> None:
        self._defaults = defaults
        self._collection = collection

    async def of(self, owner: str) -> OwnerLimits:
        """What the owner may have."""
        document = await self._document(owner)
        return replace(self._defaults, **_own(document)) if document else self._defaults

    async def own(self, owner: str) -> Mapping[str, int]:
        """What is said of this owner alone, by the names of the limits."""
        return _own(await self._document(owner) or {})

    async def put(self, owner: str, changes: Mapping[str, int | None]) -> OwnerLimits:
        """Set limits of one owner; None takes a limit back to the default.

        Raises:
            InvalidInput: There is no such limit, or the value cannot be; nothing was changed.
            Conflict: Others change it at the same time.
        """
        assert self._collection is not None
        for name, value in changes.items():
            if name not in asdict(self._defaults):
                raise InvalidInput(f"quota: there is no {name[:80]!r}", hint=f"Use {', '.join(asdict(self._defaults))}")
            if value is not None and not 0 <= value <= _MOST:
                raise InvalidInput(
                    f"{name}: {value} is out of range", hint=f"Use 0 to {_MOST}, or null for the default"
                )
        backoff = Backoff()
        while backoff.failed < _TRIES:
            before = await self._document(owner)
            own = {**_own(before or {}), **changes}
            document: Document = {"_id": owner, **{name: value for name, value in own.items() if value is not None}}
            try:
                with translate_store_errors():
                    if before is None:
                        await self._collection.insert(document)
                    else:
                        await self._collection.replace({**document, "version": before["version"]})
            except (DuplicateKey, VersionConflict, DocumentMissing):
                await backoff.wait()
                continue
            return await self.of(owner)
        raise Conflict(f"The quota of {owner} is being changed by many at once", hint="Try again")

    async def _document(self, owner: str) -> Document | None:
        if self._collection is None:
            return None
        with translate_store_errors():
            return await self._collection.get(owner)


def _own(document: Mapping[str, object]) -> dict[str, int]:
    return {name: value for name in asdict(OwnerLimits()) if isinstance(value := document.get(name), int)}
