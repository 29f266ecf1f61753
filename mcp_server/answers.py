"""The form of every answer that is not MCP's: JSON, and errors as `{"error", "details"}`."""

from __future__ import annotations

from starlette.responses import JSONResponse


def problem(status: int, error: str, details: str = "") -> JSONResponse:
    """An error answer.

    Args:
        status: HTTP status.
        error: What is wrong.
        details: The way out; left out when empty.
    """
    return JSONResponse({"error": error, "details": details} if details else {"error": error}, status_code=status)
