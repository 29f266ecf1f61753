"""A program for the test of traces, since a process cannot change its provider: serves until its input ends."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from mcp.server import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from auth.principal import Principal
from mcp_server.audit.entry import annotate_call
from mcp_server.audit.log import AuditLog
from mcp_server.audit.middleware import AuditMiddleware
from mcp_server.audit.record import AUDIT
from mcp_server.http.request_log import RequestLog
from mcp_server.observability.metrics import Meters
from mcp_server.observability.tracing import Tracing
from mcp_server.rest.endpoint import Endpoint, routes
from storage.sqlite import SqliteDatabase
from tests.mcp_server.edge import serving


class TracedServer(MCPServer[None]):
    """Records its calls as the real one does."""

    def __init__(self, audit_log: AuditLog) -> None:
        super().__init__("traced", log_level="ERROR")

        async def touch(secret: str) -> str:
            """Touch a sandbox."""
            with audit_log.call(surface="mcp", action="touch", arguments={"secret": secret}):
                annotate_call(sandbox="d" * 24)
            return "done"

        self.add_tool(touch)


async def hello(_request: Request, _who: Principal) -> Response:
    return JSONResponse({})


async def main(directory: Path) -> None:
    meters = Meters(version="test")
    tracing = Tracing.of_environment(version="1.2.3")
    async with SqliteDatabase(directory / "traced.db") as database:
        audit_log = AuditLog(await database.collection(AUDIT), meters=meters, days=1)
        server = TracedServer(audit_log)
        server.streamable_http_app()

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
            async with server.session_manager.run():
                yield

        hellos = [
            Endpoint(method="GET", path="/api/hello/{id}", handler=hello, scope=None, action="hello.get", open=True)
        ]
        app = Starlette(
            routes=[Route("/api/mcp", StreamableHTTPASGIApp(server.session_manager)), *routes(hellos)],
            lifespan=lifespan,
            middleware=[
                Middleware(RequestLog),
                *tracing.layers(),
                Middleware(AuditMiddleware, audit_log=audit_log, meters=meters, mcp=["/api/mcp"]),
            ],
        )
        async with serving(app) as edge:
            sys.stdout.write(f"{edge.url}\n")
            sys.stdout.flush()
            await anyio.to_thread.run_sync(sys.stdin.read)
    began = anyio.current_time()
    await tracing.aclose()
    sys.stdout.write(f"closed in {anyio.current_time() - began:.1f}\n")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
