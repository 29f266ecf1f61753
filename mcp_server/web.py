"""The ASGI application: exact routes, and the layers that every request passes on its way to them.

From the outside: headers, request id and log, traces, audit and metrics, Host and Origin, the body's size, then the
routes. Behind the gate, which asks who calls, the MCP endpoints have three layers more: the identity for the tools, the
count of sessions, the ids of their messages.
"""

from __future__ import annotations

import gc
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute

from .audit.surface import Surface
from .http.cors import cors
from .http.guards import BodyLimit, FrontGuard, JsonOnly, SecurityHeaders
from .http.mcp_sessions import SessionCap
from .http.message_ids import LONGEST_GROWTH, MessageIds
from .http.problem import problem
from .http.rate_limited import answer_later
from .http.request_log import RequestLog
from .probes import probe_routes
from .snippets import ENDPOINT
from .terminals.screens import Screens
from .tools.server import TOOLSETS, CasemateServer, Toolset

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from auth.gate import OnLater
    from vmm.fleet import Fleet

    from .audit.log import AuditLog
    from .defaults import Defaults
    from .observability.metrics import Meters
    from .settings import Settings

_PATHS: dict[Toolset, str] = {"all": ENDPOINT, "core": f"{ENDPOINT}/core", "readonly": f"{ENDPOINT}/readonly"}
_UPLOADS = re.compile(r"/api/sandboxes/[^/]+/(?:files/(?:upload|archive)|commands/stdin)")
_MIB = 1024 * 1024


class Gatekeeper(Protocol):
    """Wraps an application so that only requests with a good credential reach it, with their principal."""

    def __call__(self, app: ASGIApp, on_later: OnLater | None = None) -> ASGIApp:
        """The application behind a gate; what may pass later is answered by `on_later`."""
        ...


def build_web(
    settings: Settings,
    fleet: Fleet,
    *,
    gate: Gatekeeper,
    defaults: Defaults,
    trail: AuditLog,
    meters: Meters,
    routes: Sequence[BaseRoute] = (),
    layers: Sequence[Middleware] = (),
) -> Starlette:
    """Put the application together.

    Args:
        settings: Bounds and names.
        fleet: Running; it must outlive the application.
        gate: Asks who calls.
        defaults: Of sandboxes.
        trail: Takes note of every call.
        meters: Count every request.
        routes: What is served besides MCP and probes.
        layers: What is around everything that is recorded.
    """
    security = TransportSecuritySettings(allowed_hosts=settings.hosts, allowed_origins=settings.origins)
    screens = Screens(fleet)
    cap = SessionCap(most=settings.sessions_per_owner, idle_seconds=settings.session_idle_seconds)
    ids = MessageIds()
    servers: dict[Toolset, CasemateServer] = {
        toolset: CasemateServer(fleet, screens, trail, toolset=toolset, defaults=defaults) for toolset in TOOLSETS
    }
    # Routes are looked at in turn: what is called most comes first.
    served: list[BaseRoute] = []
    for toolset, server in servers.items():
        # Called for the session manager that it makes; the application that it returns would redirect one spelling.
        server.streamable_http_app(
            transport_security=security,
            session_idle_timeout=settings.session_idle_seconds,
            max_sessions=settings.max_sessions,
            max_request_body_size=settings.max_body_mib * _MIB + LONGEST_GROWTH,
        )
        protocol = JsonOnly(ids.around(StreamableHTTPASGIApp(server.session_manager)))
        endpoint = gate(AuthContextMiddleware(cap.around(protocol)), answer_later)
        path = _PATHS[toolset]
        served += [Route(path, endpoint), Route(f"{path}/", endpoint)]
    served += [*probe_routes(fleet, defaults.image, servers["all"].version), *routes]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for server in servers.values():
                await stack.enter_async_context(server.session_manager.run())
            gc.collect()
            gc.freeze()
            try:
                yield
            finally:
                gc.unfreeze()

    app = Starlette(
        routes=served,
        lifespan=lifespan,
        middleware=[
            Middleware(SecurityHeaders),
            *cors(settings.allowed_origins),
            Middleware(RequestLog),
            *layers,
            Middleware(
                Surface, trail=trail, meters=meters, mcp=[*_PATHS.values(), *(f"{p}/" for p in _PATHS.values())]
            ),
            Middleware(FrontGuard, security=security),
            Middleware(
                BodyLimit,
                most=settings.max_body_mib * _MIB,
                uploads=_UPLOADS,
                most_upload=settings.max_upload_mib * _MIB,
            ),
        ],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False
    return app


def gated(gate: Gatekeeper, routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Put routes behind the gate, each by itself, so that what is no route needs no credential to be told so."""
    for route in routes:
        assert isinstance(route, Route | WebSocketRoute)
        route.app = gate(route.app)
    return list(routes)


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = f"The MCP endpoint is {ENDPOINT}" if error.status_code == 404 else ""
    answer = problem(error.status_code, error.detail, details)
    answer.headers.update(error.headers or {})
    return answer
