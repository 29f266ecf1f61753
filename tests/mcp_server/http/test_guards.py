"""The checks before anything else looks at a request, on a real server."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from mcp_server.http.cors import cors
from mcp_server.http.guards import BodyLimit, FrontGuard, SecurityHeaders
from mcp_server.http.request_log import RequestLog
from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge, serving

pytestmark = pytest.mark.anyio

GOOD = "https://good.example.org"
MOST, MOST_UPLOAD = 1000, 5000


async def size(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body())})


async def forgiving(request: Request) -> Response:
    """A handler that makes an answer of whatever goes wrong."""
    try:
        await request.body()
    except Exception:
        return JSONResponse({"error": "something"}, status_code=500)
    return JSONResponse({})


async def grouped(request: Request) -> Response:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request.body)
    return JSONResponse({})


async def early(request: Request) -> Response:
    """Answers before the request's body is read."""

    async def answer() -> AsyncIterator[bytes]:
        yield b"begun"
        async for _ in request.stream():
            pass
        yield b"ended"

    return StreamingResponse(answer())


async def cached(_request: Request) -> Response:
    return Response("x", headers={"cache-control": "max-age=60", "content-security-policy": "sandbox"})


async def broken(_request: Request) -> Response:
    raise RuntimeError("hunter2")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


async def broken_socket(socket: WebSocket) -> None:
    if "accept" in socket.query_params:
        await socket.accept()
    raise RuntimeError("hunter2")


@pytest.fixture
async def guarded() -> AsyncGenerator[Edge]:
    security = TransportSecuritySettings(allowed_hosts=["127.0.0.1:*"], allowed_origins=[GOOD])
    posts = {"/size": size, "/forgiving": forgiving, "/grouped": grouped, "/early": early, "/up/load": size}
    app = Starlette(
        routes=[
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
            Route("/cached", cached),
            Route("/broken", broken),
            WebSocketRoute("/echo", echo),
            WebSocketRoute("/broken", broken_socket),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            *cors([GOOD]),
            Middleware(RequestLog),
            Middleware(FrontGuard, security=security),
            Middleware(BodyLimit, most=MOST, uploads=re.compile(r"/up/[a-z]+"), most_upload=MOST_UPLOAD),
        ],
    )
    async with serving(app) as running:
        yield running


@pytest.fixture
async def http(guarded: Edge) -> AsyncGenerator[httpx.AsyncClient]:
    async with guarded.http() as client:
        yield client


def pieces(total: int) -> AsyncIterator[bytes]:
    """A body that does not say its size."""

    async def sent() -> AsyncIterator[bytes]:
        for _ in range(total // 100):
            yield b"x" * 100

    return sent()


@pytest.mark.parametrize("path", ["/size", "/forgiving", "/grouped"])
async def test_a_body_that_does_not_say_its_size_is_counted(http: httpx.AsyncClient, path: str) -> None:
    fine = await http.post(path, content=pieces(MOST))
    assert fine.status_code == 200
    refused = await http.post(path, content=pieces(MOST + 100))
    assert refused.status_code == 413
    assert refused.json()["error"] == "The request has more than 1000 bytes"
    assert "in pieces" in refused.json()["details"]


async def test_a_body_that_says_its_size_is_refused_before_it_is_read(http: httpx.AsyncClient) -> None:
    assert (await http.post("/size", content=b"x" * MOST)).json() == {"size": MOST}
    refused = await http.post("/size", content=b"x" * (MOST + 1))
    assert refused.status_code == 413
    assert refused.json()["error"] == "The request has 1001 bytes"


async def test_an_upload_has_its_own_limit(http: httpx.AsyncClient) -> None:
    assert (await http.post("/up/load", content=b"x" * MOST_UPLOAD)).json() == {"size": MOST_UPLOAD}
    assert (await http.post("/up/load", content=pieces(MOST_UPLOAD))).json() == {"size": MOST_UPLOAD}
    assert (await http.post("/up/load", content=b"x" * (MOST_UPLOAD + 1))).status_code == 413
    assert (await http.post("/up/load", content=pieces(MOST_UPLOAD + 100))).status_code == 413


async def test_an_answer_that_began_before_the_body_was_too_large_breaks_off(http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await http.post("/early", content=pieces(MOST + 100))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/size", 200), ("GET", "/nothing", 404), ("GET", "/broken", 500), ("GET", "/size", 405)],
)
async def test_every_answer_tells_browsers_that_it_is_no_page(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["x-request-id"]
    assert "hunter2" not in answer.text


async def test_an_answer_keeps_the_headers_that_it_has(http: httpx.AsyncClient) -> None:
    answer = await http.get("/cached")
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
    assert answer.headers.get_list("content-security-policy") == ["sandbox"]


async def test_a_named_origin_may_call_and_read(http: httpx.AsyncClient) -> None:
    asked = {"origin": GOOD, "access-control-request-method": "POST"}
    headers = "x-api-key, authorization, content-type, x-org-id, mcp-session-id, mcp-protocol-version, last-event-id"
    preflight = await http.options("/size", headers={**asked, "access-control-request-headers": headers})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == GOOD
    answer = await http.post("/size", headers={"origin": GOOD})
    assert answer.headers["access-control-allow-origin"] == GOOD
    assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
    assert "RateLimit-Remaining" in answer.headers["access-control-expose-headers"]
    refused = await http.post("/size", headers={"origin": GOOD}, content=b"x" * 2000)
    assert refused.status_code == 413
    assert refused.headers["access-control-allow-origin"] == GOOD


async def test_another_origin_may_not(http: httpx.AsyncClient) -> None:
    preflight = await http.options(
        "/size", headers={"origin": "https://evil.example.org", "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    answer = await http.post("/size", headers={"origin": "https://evil.example.org"})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_without_named_origins_there_is_no_layer_for_them() -> None:
    assert cors([]) == []


async def test_every_web_page_may_call_where_the_operator_says_so_but_with_no_cookie(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, allowed_origins=("*",))
    security = TransportSecuritySettings(allowed_hosts=settings.hosts, allowed_origins=settings.origins)
    app = Starlette(
        routes=[Route("/cached", cached)],
        middleware=[*cors(settings.allowed_origins), Middleware(FrontGuard, security=security)],
    )
    async with serving(app) as edge, edge.http() as http:
        for origin in ("https://any.example.org", "http://any.example.org:8080", "null"):
            answer = await http.get("/cached", headers={"origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
            assert "access-control-allow-credentials" not in answer.headers
        assert (await http.get("/cached", headers={"host": "evil.example.org"})).status_code == 421


def socket_url(edge: Edge, path: str) -> str:
    return edge.url.replace("http", "ws", 1) + path


async def test_a_websocket_passes_from_here_and_from_a_named_origin(guarded: Edge) -> None:
    for origin in (None, Origin(GOOD)):
        async with connect(socket_url(guarded, "/echo"), proxy=None, origin=origin) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"


async def test_a_websocket_from_a_foreign_page_is_refused_before_it_opens(guarded: Edge) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket_url(guarded, "/echo"), proxy=None, origin=Origin("https://evil.example.org"))
    assert refused.value.response.status_code == 403
    assert refused.value.response.headers["x-request-id"]
    assert b"CASEMATE_ALLOWED_ORIGINS" in (refused.value.response.body or b"")


async def test_a_websocket_for_another_host_is_refused(guarded: Edge) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect("ws://rebound.example.org/echo", proxy=None, host="127.0.0.1", port=httpx.URL(guarded.url).port)
    assert refused.value.response.status_code == 421


async def test_a_websocket_whose_handler_breaks_is_answered_with_its_request_id(guarded: Edge) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket_url(guarded, "/broken"), proxy=None, additional_headers={"x-request-id": "find-me"})
    assert refused.value.response.status_code == 500
    assert b"find-me" in (refused.value.response.body or b"")
    async with connect(socket_url(guarded, "/broken?accept"), proxy=None) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert closed.value.rcvd.reason.startswith("request id ")


async def test_the_log_never_shows_a_query(http: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
    await http.get("/cached?apiKey=hunter2")
    printed = capsys.readouterr()
    assert "/cached" in printed.out + printed.err
    assert "hunter2" not in printed.out + printed.err
