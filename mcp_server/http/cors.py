"""Cross-origin calls: off, unless the operator names origins whose pages may read the server's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Sequence

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_TAKEN = (
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
    "Range",
    "traceparent",
    "tracestate",
    "X-API-Key",
    "X-Org-ID",
    "X-Request-Id",
)
_SHOWN = (
    "Allow",
    "Content-Disposition",
    "Content-Range",
    "Mcp-Session-Id",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Request-Id",
)
_MAX_AGE_S = 600


def cors(origins: Sequence[str]) -> list[Middleware]:
    """The layer for these origins, or none at all.

    Args:
        origins: Such as https://box.example.org, each in full; a wildcard never gets here.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=_METHODS,
            allow_headers=_TAKEN,
            expose_headers=_SHOWN,
            max_age=_MAX_AGE_S,
        )
    ]
