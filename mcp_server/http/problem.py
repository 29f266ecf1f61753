"""The form of every answer that is not MCP's: JSON, and errors as `{"error", "details", "requestId"}`."""

from __future__ import annotations

from starlette.responses import JSONResponse

from .request_id import current_request_id


def problem(status: int, error: str, details: str = "") -> JSONResponse:
    """An error answer.

    Args:
        status: HTTP status.
        error: What is wrong.
        details: The way out; left out when empty.
    """
    parts = {"error": error, "details": details, "requestId": current_request_id()}
    return JSONResponse({name: text for name, text in parts.items() if text}, status_code=status)
