"""Paging of lists: `page` and `limit` in the query, and `meta` in the answer."""

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
class RequestedPage:
    """A page of a list.

    Attributes:
        number: Counted from 1.
        limit: Its maximum number of rows.
    """

    number: int
    limit: int

    @property
    def rows(self) -> slice:
        """The page's rows within the whole list."""
        return slice((self.number - 1) * self.limit, self.number * self.limit)

    def meta(self, total: int) -> dict[str, int]:
        """Describe the page's position in a list of `total` rows."""
        return {"page": self.number, "limit": self.limit, "total": total, "totalPages": -(-total // self.limit)}


def requested_page(request: Request) -> RequestedPage:
    """Parse the page of a query; values other than positive numbers are ignored, as in VoidRun."""
    query = request.query_params
    limit = min(_count(query.get("limit", ""), _LIMIT), _LIMIT_MOST)
    return RequestedPage(number=_count(query.get("page", ""), 1), limit=limit)


def _count(text: str, default: int) -> int:
    return int(text) if _COUNT.fullmatch(text) and int(text) > 0 else default
