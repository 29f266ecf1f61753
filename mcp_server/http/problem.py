"""The format of error answers outside of MCP: JSON with `{"error", "details", "requestId"}`."""

from __future__ import annotations

from starlette.responses import JSONResponse

from .request_id import current_request_id


def problem(status: int, error: str, details: str = "") -> JSONResponse:
    """Build an error answer.

    Args:
        status: HTTP status.
        error: What is wrong.
        details: How to fix it; left out when empty.
    """
    parts = {"error": error, "details": details, "requestId": current_request_id()}
    return JSONResponse({name: text for name, text in parts.items() if text}, status_code=status)
