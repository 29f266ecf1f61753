"""`GET /metrics`: access control, and the metrics that are looked up on each scrape."""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING

import anyio
import structlog
from starlette.responses import Response
from starlette.routing import Route

from storage.errors import StoreError
from vmm.errors import CasemateError

from .http.problem import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from vmm.sandboxes.sandbox import State
    from vmm.sandboxes.usage import Usage

    from .observability.metrics import Meters

PATH = "/metrics"
_DEADLINE_S = 2.0
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_log = structlog.stdlib.get_logger("casemate.metrics")


def metrics_route(
    meters: Meters,
    *,
    survey: Callable[[], Awaitable[Mapping[State, Usage]]],
    ping: Callable[[], Awaitable[None]],
    connections: Callable[[], tuple[int, int]] = lambda: (0, 0),
    token: str = "",
) -> Route:
    """Build the route.

    With a token, only clients that send it may read the metrics, because behind a proxy on this machine every client
    looks local. Without one, only direct connections from this machine may.

    Args:
        meters: The metrics to expose.
        survey: Looks up the resources of the fleet's sandboxes, by state.
        ping: Returns when the store answers.
        connections: Counts what sandboxes were allowed and refused.
        token: The token that scrapers must send; empty for none.
    """

    async def metrics(request: Request) -> Response:
        if token and not _has(request, token):
            return problem(401, "The metrics require a token", "Send CASEMATE_METRICS_TOKEN as Authorization: Bearer")
        if not token and not _local(request):
            return problem(
                404, "Not Found", "Metrics are served only to this machine, unless CASEMATE_METRICS_TOKEN is set"
            )
        meters.network(*connections())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_look_at_store, meters, ping)
            tasks.start_soon(_look_at_fleet, meters, survey)
        return Response(await anyio.to_thread.run_sync(meters.text), headers={"content-type": _CONTENT_TYPE})

    return Route(PATH, metrics, methods=["GET"])


async def _look_at_store(meters: Meters, ping: Callable[[], Awaitable[None]]) -> None:
    try:
        with anyio.fail_after(_DEADLINE_S):
            await ping()
    except (StoreError, CasemateError, TimeoutError) as error:
        _log.debug("store does not answer", reason=str(error))
        meters.store(up=False)
    else:
        meters.store(up=True)


async def _look_at_fleet(meters: Meters, survey: Callable[[], Awaitable[Mapping[State, Usage]]]) -> None:
    try:
        with anyio.fail_after(_DEADLINE_S):
            found = await survey()
    except (StoreError, CasemateError, TimeoutError) as error:
        _log.debug("no figures of the fleet", reason=str(error))
        meters.no_fleet()
    else:
        meters.fleet(found)


def _has(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return scheme.lower() == "bearer" and same


def _local(request: Request) -> bool:
    """Whether the client is on this machine, without a proxy in between."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
