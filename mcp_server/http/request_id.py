"""The request id that appears in answers, logs, audit records and error texts."""

from __future__ import annotations

import structlog


def current_request_id() -> str:
    """Return the id of the current task's request; empty outside of requests."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
