"""A temporary server: the web application on a free loopback port for the duration of one command."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from mcp_server.app import open_services

from ..http.serve import WebServer, listen
from ..observability import logs
from .console import CliError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mcp_server.settings import Settings

_HOST = "127.0.0.1"


@asynccontextmanager
async def temporary_server(settings: Settings) -> AsyncGenerator[str]:
    """Serve this data directory until the block ends and yield the address. Keys are required as on any server.

    Raises:
        DataDirInUse: Another process uses the data directory.
        CliError: The application did not start.
    """
    # Warnings about the host belong to serve and doctor; commands would repeat them each time.
    logs.configure("error", "auto")
    async with open_services(settings) as services:
        listener = listen(_HOST, 0)
        ready, over = anyio.Event(), anyio.Event()
        server = WebServer(services.web(), ready.set)

        async def serve() -> None:
            try:
                await server.serve([listener])
            finally:
                over.set()
                ready.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(services.run)
            tasks.start_soon(serve)
            await ready.wait()
            if over.is_set():
                raise CliError("Cannot start a server for this data directory: run casemate serve to see why")
            try:
                yield f"http://{_HOST}:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                with anyio.CancelScope(shield=True):
                    await over.wait()
                tasks.cancel_scope.cancel()
