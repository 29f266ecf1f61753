"""A server for a page in development, as Vite's is, that tells the page what has changed: `dev_server.py DIRECTORY`.

Of Vite it has what a proxy can break: absolute paths, ETags, a WebSocket on `/` with a subprotocol that the client
insists on, and a look at the headers Host and Origin. It runs by itself and knows nothing of the project.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

_LOOK_S = 0.05
_HMR = "vite-hmr"
_DATA = "data.json"


class DevServer:
    """Serves the files of a directory."""

    def __init__(self, directory: Path) -> None:
        self._files = tuple(path for path in directory.rglob("*") if path.is_file())
        self._data = directory / _DATA
        self.app = Starlette(
            routes=[
                Route("/api/data", self.data),
                Route("/api/events", self.events),
                WebSocketRoute("/", self.hmr),
                Mount("/", _Files(directory=directory, html=True)),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "*.localhost"])],
        )

    async def data(self, _request: Request) -> Response:
        return JSONResponse(json.loads(self._data.read_text()))

    async def events(self, _request: Request) -> Response:
        """Tell that there is data, and every time that it has changed."""
        changes = self._changes()

        async def sent() -> AsyncIterator[str]:
            yield "data: there\n\n"
            async for changed in changes:
                if self._data in changed:
                    yield "data: changed\n\n"

        return StreamingResponse(sent(), media_type="text/event-stream")

    async def hmr(self, client: WebSocket) -> None:
        """Ask the page to reload itself every time that its source has changed."""
        own_page = client.headers.get("origin") == f"http://{client.headers['host']}"
        if not own_page or _HMR not in client.scope["subprotocols"]:
            await client.close()
            return
        changes = self._changes()
        await client.accept(_HMR)
        await client.send_json({"type": "connected"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._reload, client, changes)
            with suppress(WebSocketDisconnect):
                await client.receive_text()
            tasks.cancel_scope.cancel()

    async def _reload(self, client: WebSocket, changes: AsyncIterator[set[Path]]) -> None:
        async for changed in changes:
            if changed - {self._data}:
                await client.send_json({"type": "full-reload"})

    def _changes(self) -> AsyncIterator[set[Path]]:
        """The files that change from now on."""

        async def found(before: dict[Path, int]) -> AsyncIterator[set[Path]]:
            while True:
                await anyio.sleep(_LOOK_S)
                now = self._state()
                changed = {path for path in now if now[path] != before[path]}
                before = now
                if changed:
                    yield changed

        return found(self._state())

    def _state(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self._files}


class _Files(StaticFiles):
    """Files that a browser asks for anew at each use."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers["cache-control"] = "no-cache"
        return response


def main(directory: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listens on {listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(DevServer(directory).app)).run([listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
