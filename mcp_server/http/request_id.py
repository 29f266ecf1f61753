"""The id that answers, logs, audit records and error texts of one request share."""

from __future__ import annotations

import structlog


def current_request_id() -> str:
    """The id of the request that this task works for; empty outside of requests."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
