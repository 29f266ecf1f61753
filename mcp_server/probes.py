"""Health probes for supervisors and load balancers: `/health` (alive) and `/ready` (able to serve)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog
from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from vmm.fleet import Fleet

_DEADLINE_S = 5
_log = structlog.stdlib.get_logger("casemate.probes")


def probe_routes(fleet: Fleet, image: str, version: str) -> list[Route]:
    """Build the two routes. Neither needs a key; they reveal no more than a word per component.

    Args:
        fleet: The running fleet.
        image: The default image; without it the server is not ready.
        version: The version of this release.
    """

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": version})

    async def ready(_request: Request) -> Response:
        try:
            with anyio.fail_after(_DEADLINE_S):
                reasons = await fleet.health(image)
        except TimeoutError:
            reasons = {"server": f"no answer within {_DEADLINE_S} s"}
        bad = {part: reason for part, reason in reasons.items() if reason}
        if bad:
            _log.warning("not ready", **bad)
        parts = {part: reason or "ok" for part, reason in reasons.items()}
        status = "not ready" if bad else "ready"
        return JSONResponse({"status": status, "ready": not bad, "parts": parts}, status_code=503 if bad else 200)

    return [Route("/health", health, methods=["GET"]), Route("/ready", ready, methods=["GET"])]
