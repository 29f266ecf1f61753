"""VoidRun's envelope around successful answers: `{"status": "success", "message", "data", "meta"}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response


def success(message: str, data: object = None, *, meta: Mapping[str, int] | None = None, status: int = 200) -> Response:
    """A successful answer.

    Args:
        message: What was done, in VoidRun's words: clients show it.
        data: What was asked for; left out when None.
        meta: Where a page stands among all; left out when None.
        status: HTTP status.
    """
    content: dict[str, Any] = {"status": "success", "message": message}
    if data is not None:
        content["data"] = data
    if meta is not None:
        content["meta"] = dict(meta)
    return JSONResponse(content, status_code=status)
