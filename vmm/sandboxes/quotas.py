"""What each owner may have: limits that the operator sets for single owners, in the store, over common defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from storage.backoff import Backoff
from storage.collection import Collection, CollectionSpec, Document
from storage.errors import DocumentMissing, DuplicateKey, VersionConflict
from storage.shown import shown

from ..errors import Conflict, InvalidInput
from .limits import OwnerLimits
from .store import translate_store_errors

QUOTAS = CollectionSpec(name="quotas")

_MAX = 2**40
_TRIES = 100


class Quotas:
    """Limits by owner.

    When the store fails, every method raises Unavailable, or HostExhausted if the store's disk is full.

    Args:
        defaults: For owners without limits of their own, and for limits that are not set.
        collection: Of QUOTAS; without one, the defaults apply to everybody.
    """

    def __init__(self, defaults: OwnerLimits, collection: Collection | None = None) -> None:
        self._defaults = defaults
        self._collection = collection

    async def of(self, owner: str) -> OwnerLimits:
        """Return what the owner may have."""
        document = await self._document(owner)
        return replace(self._defaults, **_own(document)) if document else self._defaults

    async def own(self, owner: str) -> Mapping[str, int]:
        """Return the limits that are set for this owner alone, by name."""
        return _own(await self._document(owner) or {})

    async def put(self, owner: str, changes: Mapping[str, int | None]) -> OwnerLimits:
        """Set limits of one owner; None returns a limit to the default.

        Raises:
            InvalidInput: There is no such limit, or the value is out of range; nothing was changed.
            Conflict: Others are changing it at the same time.
        """
        assert self._collection is not None
        for name, value in changes.items():
            if name not in asdict(self._defaults):
                names = ", ".join(asdict(self._defaults))
                raise InvalidInput(f"quota must be one of {names}, got {shown(name)}")
            if value is not None and not 0 <= value <= _MAX:
                raise InvalidInput(f"{name} must be 0 to {_MAX}, got {shown(value)}", hint="Use null for the default")
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
