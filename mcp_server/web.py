"""The ASGI application: exact routes, and the layers that every request passes on its way to them.

From the outside: request id and log, Host and Origin, then the routes. The MCP endpoints have three layers more: the
API key, the identity for the tools, the count of sessions.
"""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from .answers import problem
from .audit.surface import Surface
from .cors import cors
from .guards import BodyLimit, FrontGuard, JsonOnly, SecurityHeaders
from .probes import probe_routes
from .requests import RequestLog
from .screens import Screens
from .server import TOOLSETS, CasemateServer, Toolset
from .sessions import SessionCap
from .snippets import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from vmm.fleet import Fleet

    from .audit.trail import Trail
    from .metrics.meters import Meters
    from .settings import Settings

_PATHS: dict[Toolset, str] = {"all": ENDPOINT, "core": f"{ENDPOINT}/core", "readonly": f"{ENDPOINT}/readonly"}
_MIB = 1024 * 1024


def build_web(
    settings: Settings, fleet: Fleet, authenticate: Callable[[ASGIApp], ASGIApp], trail: Trail, meters: Meters
) -> Starlette:
    """Put the application together.

    Args:
        settings: Bounds and names.
        fleet: Running; it must outlive the application.
        authenticate: Wraps an endpoint so that only requests with a valid key reach it, with their principal.
        trail: Takes note of every call.
        meters: Count every request.
    """
    security = TransportSecuritySettings(allowed_hosts=settings.hosts, allowed_origins=settings.origins)
    screens = Screens(fleet)
    cap = SessionCap(most=settings.sessions_per_owner, idle_seconds=settings.session_idle_seconds)
    servers: dict[Toolset, CasemateServer] = {
        toolset: CasemateServer(fleet, screens, trail, toolset=toolset, default_image=settings.default_image)
        for toolset in TOOLSETS
    }
    routes = probe_routes(fleet, servers["all"].version)
    for toolset, server in servers.items():
        # Called for the session manager that it makes; the application that it returns would redirect one spelling.
        server.streamable_http_app(
            transport_security=security,
            session_idle_timeout=settings.session_idle_seconds,
            max_sessions=settings.max_sessions,
            max_request_body_size=settings.max_body_mib * _MIB,
        )
        protocol = JsonOnly(StreamableHTTPASGIApp(server.session_manager))
        endpoint = authenticate(AuthContextMiddleware(cap.around(protocol)))
        path = _PATHS[toolset]
        routes += [Route(path, endpoint), Route(f"{path}/", endpoint)]

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
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(SecurityHeaders),
            *cors(settings.allowed_origins),
            Middleware(RequestLog),
            Middleware(
                Surface, trail=trail, meters=meters, mcp=[*_PATHS.values(), *(f"{p}/" for p in _PATHS.values())]
            ),
            Middleware(FrontGuard, security=security),
            Middleware(BodyLimit, most=settings.max_body_mib * _MIB),
        ],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False
    return app


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = f"The MCP endpoint is {ENDPOINT}" if error.status_code == 404 else ""
    answer = problem(error.status_code, error.detail, details)
    answer.headers.update(error.headers or {})
    return answer
