"""Which part of a list a client wants: `page` and `limit` of the query, and the `meta` that tells where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

_LIMIT = 20
_LIMIT_MOST = 100
_COUNT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPage:
    """A page of a list.

    Attributes:
        number: Counted from 1.
        limit: How many rows it has at most.
    """

    number: int
    limit: int

    @property
    def rows(self) -> slice:
        """Which rows of the whole list these are."""
        return slice((self.number - 1) * self.limit, self.number * self.limit)

    def meta(self, total: int) -> dict[str, int]:
        """Where the page stands in a list of `total` rows."""
        return {"page": self.number, "limit": self.limit, "total": total, "totalPages": -(-total // self.limit)}


def asked_page(request: Request) -> AskedPage:
    """The page that a query asks for; what is no number from 1 on is as good as nothing, as VoidRun has it."""
    query = request.query_params
    limit = min(_count(query.get("limit", ""), _LIMIT), _LIMIT_MOST)
    return AskedPage(number=_count(query.get("page", ""), 1), limit=limit)


def _count(text: str, default: int) -> int:
    return int(text) if _COUNT.fullmatch(text) and int(text) > 0 else default
