"""Looking records up: newest first, by a filter, page by page, with a bound on what one page may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmm.errors import InvalidInput

from .record import BY_ORG, BY_ORG_KEY, BY_ORG_SANDBOX, BY_TIME, AuditRecord, Decision

if TYPE_CHECKING:
    from storage.collection import Collection, Document, Index, Value

_BATCH = 500
_MOST_READ = 10_000
_CURSOR = re.compile(r"(\d{1,16})-([0-9a-f]{24})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which records; an empty text is no condition.

    Attributes:
        org: The organisation; an empty one for calls of which nobody is known to be the caller, None for all.
        sandbox: As it stands in the record.
        key: A key's id.
        since_ms, until_ms: Begun at or after, and before; epoch milliseconds.
    """

    org: str | None
    sandbox: str = ""
    key: str = ""
    user: str = ""
    action: str = ""
    decision: Decision | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def plan(self) -> tuple[Index, dict[str, Value]]:
        """The index that fits best, and the values for its first fields."""
        if self.org is None:
            return BY_TIME, {}
        if self.sandbox:
            return BY_ORG_SANDBOX, {"org_id": self.org, "sandbox": self.sandbox}
        if self.key:
            return BY_ORG_KEY, {"org_id": self.org, "key_id": self.key}
        return BY_ORG, {"org_id": self.org}

    def fits(self, record: AuditRecord) -> bool:
        """Whether the record meets every condition."""
        wanted = (
            (self.sandbox, record.sandbox),
            (self.key, record.key_id),
            (self.user, record.user_id),
            (self.action, record.action),
            (self.decision, record.decision),
        )
        return all(not wish or wish == value for wish, value in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some records, newest first.

    Attributes:
        next: Where to go on; empty at the end. A page may have fewer records than were asked for and yet a next one,
            where few of the many that were looked at met the filter.
    """

    records: tuple[AuditRecord, ...]
    next: str = ""


class AuditReader:
    """Reads the collection AUDIT."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def page(self, wanted: Filter, *, limit: int, cursor: str = "") -> Page:
        """Records that meet a filter.

        Args:
            wanted: The filter.
            limit: Most records.
            cursor: `next` of the page before.

        Raises:
            InvalidInput: The cursor is none.
            StoreError: The store failed.
        """
        index, equal = wanted.plan()
        found: list[AuditRecord] = []
        after = _position(cursor)
        for _ in range(_MOST_READ // _BATCH):
            # Most filters are met by every record of their index.
            size = max(min(_BATCH, limit - len(found) + 1), 50)
            batch = await self._collection.find(
                index,
                equal,
                descending=True,
                after=after,
                low=wanted.since_ms,
                high=wanted.until_ms,
                limit=size,
            )
            for document in batch:
                record = AuditRecord.of(document)
                if wanted.fits(record):
                    if len(found) == limit:
                        return Page(records=tuple(found), next=_cursor(after))
                    found.append(record)
                after = document
            if len(batch) < size:
                return Page(records=tuple(found))
        return Page(records=tuple(found), next=_cursor(after))


def _cursor(document: Document | None) -> str:
    return f"{document['at_ms']}-{document['_id']}" if document else ""


def _position(cursor: str) -> dict[str, Any] | None:
    if not cursor:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidInput(f"cursor: {cursor[:80]!r} is none", hint="Give `next` of the page before, unchanged")
    return {"at_ms": int(match[1]), "_id": match[2]}
