"""VoidRun's envelope of successful answers: `{"status": "success", "message", "data", "meta"}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.responses import Response

    from .shapes.envelope import PageMeta


def success(message: str, data: object = None, *, meta: PageMeta | None = None, status: int = 200) -> Response:
    """Build a successful answer.

    Args:
        message: What was done, in VoidRun's words, because clients show it.
        data: The result; left out when None.
        meta: The position of a page in the whole list; left out when None.
        status: HTTP status.
    """
    content: dict[str, Any] = {"status": "success", "message": message}
    if data is not None:
        content["data"] = data
    if meta is not None:
        content["meta"] = meta
    return JSONResponse(content, status_code=status)
