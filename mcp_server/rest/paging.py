"""Paging of lists: `page` and `limit` in the query, and `meta` in the answer."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from .body import WireModel
from .shapes.envelope import PageMeta

_LIMIT = 20
_LIMIT_MOST = 100
_COUNT = re.compile(r"[0-9]{1,9}")


def _page(text: object) -> int:
    return _count(text) or 1


def _limit(text: object) -> int:
    return min(_count(text) or _LIMIT, _LIMIT_MOST)


def _count(text: object) -> int:
    return int(text) if isinstance(text, str) and _COUNT.fullmatch(text) else 0


class Page(WireModel):
    """A page of a list; values other than positive numbers are ignored, as in VoidRun.

    Attributes:
        page: Counted from 1.
        limit: Its maximum number of rows.
    """

    page: Annotated[int, Field(ge=1), BeforeValidator(_page)] = 1
    limit: Annotated[int, Field(ge=1, le=_LIMIT_MOST), BeforeValidator(_limit)] = _LIMIT

    @property
    def rows(self) -> slice:
        """The page's rows within the whole list."""
        return slice((self.page - 1) * self.limit, self.page * self.limit)

    def meta(self, total: int) -> PageMeta:
        """Describe the page's position in a list of `total` rows."""
        return PageMeta(page=self.page, limit=self.limit, total=total, totalPages=-(-total // self.limit))
