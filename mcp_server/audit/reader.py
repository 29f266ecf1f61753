"""Queries of audit records: newest first, filtered and paged, with a bound on the cost of a page."""

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
    """A filter on records; an empty text is not a condition.

    Attributes:
        org: The organisation; empty for calls without a known caller, None for all.
        sandbox: The sandbox as it is in the record.
        key: Id of a key.
        since_ms, until_ms: Bounds on the start of the call, inclusive and exclusive; epoch milliseconds.
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
        """Choose the best index, and the values for its first fields."""
        if self.org is None:
            return BY_TIME, {}
        if self.sandbox:
            return BY_ORG_SANDBOX, {"org_id": self.org, "sandbox": self.sandbox}
        if self.key:
            return BY_ORG_KEY, {"org_id": self.org, "key_id": self.key}
        return BY_ORG, {"org_id": self.org}

    def fits(self, record: AuditRecord) -> bool:
        """Return whether the record meets every condition."""
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
    """A page of records, newest first.

    Attributes:
        next: Cursor of the next page; empty at the end. A page may have a next one although it has fewer records than
            requested, if few of the records that were read match the filter.
    """

    records: tuple[AuditRecord, ...]
    next: str = ""


class AuditReader:
    """Reads the collection AUDIT."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def page(self, wanted: Filter, *, limit: int, cursor: str = "") -> Page:
        """Find a page of records that match a filter.

        Args:
            wanted: The filter.
            limit: The maximum number of records.
            cursor: `next` of the previous page.

        Raises:
            InvalidInput: The cursor is invalid.
            StoreError: The store failed.
        """
        index, equal = wanted.plan()
        found: list[AuditRecord] = []
        after = _position(cursor)
        for _ in range(_MOST_READ // _BATCH):
            # For most filters, every record of the index matches.
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
        raise InvalidInput(
            f"cursor must be the `next` of a page, got {cursor[:80]!r}",
            hint="Pass `next` of the previous page unchanged",
        )
    return {"at_ms": int(match[1]), "_id": match[2]}
