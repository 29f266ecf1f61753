"""Cross-origin requests (CORS): off, unless the operator allows origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Sequence

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REQUEST_HEADERS = (
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
_ANSWER_HEADERS = (
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
    """Build the middleware for the allowed origins, or none.

    Args:
        origins: Full origins such as https://box.example.org, or `*` alone. No browser sends cookies along: the answers
            do not allow credentials.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_ANSWER_HEADERS,
            max_age=_MAX_AGE_S,
        )
    ]
