"""The ASGI application: exact routes, and the middleware around them.

From the outside in: published ports, which leave the way of all other requests at once; security headers, CORS, request
id and log, traces, audit and metrics, Host and Origin checks, the limit on the body's size, then the routes. Behind the
gate, which authenticates the caller, the MCP endpoints have three more layers: the identity for the tools, the cap on
sessions, the ids of messages.
"""

from __future__ import annotations

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

from .audit.middleware import AuditMiddleware
from .http.cors import cors
from .http.guards import BodyLimit, FrontGuard, JsonOnly, SecurityHeaders
from .http.mcp_sessions import SessionCap
from .http.message_ids import LONGEST_GROWTH, MessageIds
from .http.nearest_route import NearestRoute
from .http.problem import problem
from .http.rate_limited import answer_later
from .http.request_log import RequestLog
from .ports.front import PortsFront
from .probes import probe_routes
from .snippets import ENDPOINT
from .terminals.screens import Screens
from .tools.server import TOOLSETS, CasemateServer, Toolset

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from auth.gate import OnLater
    from vmm.fleet import Fleet

    from .audit.log import AuditLog
    from .defaults import Defaults
    from .observability.metrics import Meters
    from .ports.published import PublishedPorts
    from .ports.visitors import Recognise
    from .settings import Settings
    from .tools.tool_server import ToolServer

_PATHS: dict[Toolset, str] = {"all": ENDPOINT, "core": f"{ENDPOINT}/core", "readonly": f"{ENDPOINT}/readonly"}
_UPLOADS = re.compile(r"/api/sandboxes/[^/]+/(?:files/(?:upload|archive)|commands/stdin)")
_MIB = 1024 * 1024


class Gatekeeper(Protocol):
    """Wraps an application so that only requests with a valid credential reach it, with their principal."""

    def __call__(self, app: ASGIApp, on_later: OnLater | None = None) -> ASGIApp:
        """Put a gate in front of an application; `on_later` answers requests that may succeed later."""
        ...


def build_web(
    settings: Settings,
    fleet: Fleet,
    *,
    gate: Gatekeeper,
    recognise: Recognise,
    defaults: Defaults,
    ports: PublishedPorts,
    audit_log: AuditLog,
    meters: Meters,
    others: Mapping[str, ToolServer] | None = None,
    routes: Sequence[BaseRoute] = (),
    layers: Sequence[Middleware] = (),
) -> Starlette:
    """Build the application.

    Args:
        settings: Limits and host names.
        fleet: The running fleet; it must outlive the application.
        gate: Authenticates callers.
        recognise: Whether a bearer token is a credential of this server.
        defaults: Defaults of new sandboxes.
        ports: The published ports of the sandboxes.
        audit_log: Records every call.
        meters: Counts every request.
        others: Further MCP servers, by the path of each.
        routes: Routes besides MCP and the probes.
        layers: Middleware outside of the audit.
    """
    security = TransportSecuritySettings(allowed_hosts=settings.hosts, allowed_origins=settings.origins)
    screens = Screens(fleet)
    cap = SessionCap(most=settings.sessions_per_owner, idle_seconds=settings.session_idle_seconds)
    ids = MessageIds()
    servers: dict[str, ToolServer] = {
        _PATHS[toolset]: CasemateServer(fleet, screens, audit_log, toolset=toolset, defaults=defaults, ports=ports)
        for toolset in TOOLSETS
    }
    servers |= others or {}
    # Routes are matched in order, so the busiest come first.
    served: list[BaseRoute] = []
    for path, server in servers.items():
        # Called for the session manager that it creates; the application that it returns would redirect one of the
        # two spellings of the path.
        server.streamable_http_app(
            transport_security=security,
            session_idle_timeout=settings.session_idle_seconds,
            max_sessions=settings.max_sessions,
            max_request_body_size=settings.max_body_mib * _MIB + LONGEST_GROWTH,
        )
        protocol = JsonOnly(ids.around(StreamableHTTPASGIApp(server.session_manager)))
        endpoint = gate(AuthContextMiddleware(cap.around(protocol)), answer_later)
        served += [Route(path, endpoint), Route(f"{path}/", endpoint)]
    served += [*probe_routes(fleet, defaults.image, servers[ENDPOINT].version), *routes]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for server in servers.values():
                await stack.enter_async_context(server.session_manager.run())
            yield

    visitors = ports.visitors(gate, recognise, sandboxed=settings.local_mode)
    app = Starlette(
        routes=served,
        lifespan=lifespan,
        middleware=[
            Middleware(
                PortsFront,
                names=ports.names,
                by_host=RequestLog(visitors),
                by_path=RequestLog(FrontGuard(visitors, security=security)),
            ),
            Middleware(SecurityHeaders),
            *cors(settings.allowed_origins),
            Middleware(RequestLog),
            *layers,
            Middleware(
                AuditMiddleware,
                audit_log=audit_log,
                meters=meters,
                mcp=[*servers, *(f"{path}/" for path in servers)],
            ),
            Middleware(FrontGuard, security=security),
            Middleware(
                BodyLimit,
                most=settings.max_body_mib * _MIB,
                uploads=_UPLOADS,
                most_upload=settings.max_upload_mib * _MIB,
            ),
        ],
        exception_handlers={HTTPException: _refuse(NearestRoute(_paths(served)))},
    )
    app.router.redirect_slashes = False
    return app


def gated(gate: Gatekeeper, routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Put a gate in front of each route, so that an unknown path is answered with 404 even without a credential."""
    for route in routes:
        assert isinstance(route, Route | WebSocketRoute)
        route.app = gate(route.app)
    return list(routes)


def _paths(routes: Sequence[BaseRoute]) -> list[str]:
    return [route.path for route in routes if isinstance(route, Route) and not route.path.endswith("/")]


def _refuse(nearest: NearestRoute) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Build the handler of refusals that no route made, which are those of unknown paths above all."""

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        details = ""
        if error.status_code == 404:
            route = nearest.to(request.url.path)
            details = (
                f"The nearest route is {route}"
                if route
                else f"The REST API is below /api, and the MCP endpoint is {ENDPOINT}"
            )
        answer = problem(error.status_code, error.detail, details)
        answer.headers.update(error.headers or {})
        return answer

    return refuse
