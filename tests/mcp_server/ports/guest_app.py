"""A web application as people run it in sandboxes: it tells what it was sent, streams, and speaks WebSocket."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

PIECE = b"0123456789abcdef" * 4096


class GuestApp:
    """The application, and what happened to it.

    Attributes:
        left: Set when a client of /slow has left.
        go_on: Lets /events send its second event.
    """

    def __init__(self) -> None:
        self.left = anyio.Event()
        self.go_on = anyio.Event()
        self.app = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
                Route("/upload", self.upload, methods=["POST"]),
                Route("/download", self.download),
                Route("/events", self.events),
                Route("/slow", self.slow),
                Route("/cookies", self.cookies),
                Route("/moved", self.moved),
                Route("/unchanged", self.unchanged),
                Route("/{path:path}", self.page),
                WebSocketRoute("/socket", self.socket),
                WebSocketRoute("/refused", self.refused),
            ]
        )

    async def echo(self, request: Request) -> Response:
        """What the request was, as the application sees it."""
        return JSONResponse(
            {
                "method": request.method,
                "path": request.scope["raw_path"].decode(),
                "query": request.scope["query_string"].decode(),
                "headers": [[name.decode(), value.decode("latin-1")] for name, value in request.headers.raw],
                "body": (await request.body()).decode(),
            }
        )

    async def upload(self, request: Request) -> Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
        return JSONResponse({"size": size, "digest": digest.hexdigest()})

    async def download(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(int(request.query_params["pieces"])):
                yield PIECE

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    async def events(self, _request: Request) -> Response:
        async def sent() -> AsyncIterator[bytes]:
            yield b"data: first\n\n"
            await self.go_on.wait()
            yield b"data: second\n\n"

        return StreamingResponse(sent(), media_type="text/event-stream")

    async def slow(self, _request: Request) -> Response:
        async def nothing() -> AsyncGenerator[bytes]:
            try:
                yield b"begun"
                await anyio.sleep_forever()
            finally:
                self.left.set()

        return StreamingResponse(nothing())

    async def cookies(self, _request: Request) -> Response:
        answer = PlainTextResponse("set")
        for value in (
            "session=1; Domain=localhost; Path=/; HttpOnly",
            "deep=2; path=/app; Secure",
            "bare=3",
            "casemate_port=forged; Path=/",
        ):
            answer.headers.append("set-cookie", value)
        for name in ("clear-site-data", "service-worker-allowed", "alt-svc", "nel", "report-to"):
            answer.headers[name] = "x"
        return answer

    async def moved(self, request: Request) -> Response:
        return RedirectResponse(request.query_params["to"])

    async def unchanged(self, _request: Request) -> Response:
        return Response(status_code=304, headers={"etag": '"1"', "content-length": "10"})

    async def page(self, request: Request) -> Response:
        return PlainTextResponse(f"page {request.scope['raw_path'].decode()}", headers={"x-page": "yes"})

    async def socket(self, socket: WebSocket) -> None:
        """Send messages back; the text `close` closes with 4001, `headers` tells the handshake's."""
        await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                self.left.set()
                return
            if message.get("text") == "close":
                await socket.close(4001, "as you wish")
                return
            if message.get("text") == "headers":
                await socket.send_json(dict(socket.headers))
            elif message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])

    async def refused(self, socket: WebSocket) -> None:
        await socket.send_denial_response(PlainTextResponse("not for you", status_code=418))
