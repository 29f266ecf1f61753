"""A server of the moment: the web application on a free port of the loopback, for as long as one command takes."""

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
async def served_here(settings: Settings) -> AsyncGenerator[str]:
    """The address of a server on this data directory, for the length of a block. It asks for keys as any other.

    Raises:
        DataDirInUse: Another process works on the data directory.
        CliError: The application did not start.
    """
    # What this host lacks is for serve and doctor to tell, not for each command anew.
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
                raise CliError("The server of this data directory did not start: casemate serve says more")
            try:
                yield f"http://{_HOST}:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                with anyio.CancelScope(shield=True):
                    await over.wait()
                tasks.cancel_scope.cancel()
