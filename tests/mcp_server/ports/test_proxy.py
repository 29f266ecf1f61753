"""What passes between a client and a server in a sandbox: requests, bodies of any size, events, WebSockets."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Origin

from mcp_server.app import Services
from mcp_server.ports.names import Place
from mcp_server.ports.proxy import SLICE, Exchange
from mcp_server.ports.visitors import Visitors
from mcp_server.ports.visits import Visits
from mcp_server.ports.websocket import SocketExchange
from storage.errors import StoreUnavailable
from tests.mcp_server.edge import Edge, serving
from tests.mcp_server.host import ALICE, SANDBOX, OneHost
from tests.mcp_server.ports.conftest import Published
from tests.mcp_server.ports.guest_app import PIECE, GuestApp
from tests.waiting import PATIENCE_S, until
from vmm.errors import Unavailable

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LARGE = 64 * MIB
PLACE = Place(ref=SANDBOX, port=8000, prefix="", path=b"/")
SCOPE: dict[str, Any] = {
    "method": "GET",
    "scheme": "http",
    "headers": [(b"host", f"8000-{SANDBOX}.localhost".encode())],
}


@asynccontextmanager
async def raw_server(edge: Edge, said: bytes, *, wait: bool = False) -> AsyncGenerator[Published]:
    """A server that answers every request with these bytes, and then hangs up unless it is to wait."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def serve(client: SocketStream) -> None:
        async with client:
            try:
                await client.receive()
                await client.send(said)
                if wait:
                    await client.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield Published(edge=edge, port=listener.extra(SocketAttribute.local_port))
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def socket_server(edge: Edge, frames: bytes) -> AsyncGenerator[Published]:
    """A server that sends these frames together with its answer to the handshake, and waits for the client to close."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def serve(client: SocketStream) -> None:
        async with client:
            wire = ServerProtocol()
            while not (requests := wire.events_received()):
                wire.receive_data(await client.receive())
            (request,) = requests
            assert isinstance(request, Request)
            wire.send_response(wire.accept(request))
            await client.send(b"".join(wire.data_to_send()) + frames)
            try:
                while True:
                    await client.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield Published(edge=edge, port=listener.extra(SocketAttribute.local_port))
        tasks.cancel_scope.cancel()


class Blurting(ByteStream):
    """The way to a server that answers the request's head, and sends everything else at once.

    A socket would deliver it in pieces of any size, after which everybody has a turn.
    """

    def __init__(self, answer: Callable[[bytes], bytes], said: bytes) -> None:
        self._answer = answer
        self._said = [said]
        self._asked = anyio.Event()
        self._heard = b""
        self.sent: list[bytes] = []
        self.given = anyio.Event()

    async def send(self, item: bytes) -> None:
        if not self._asked.is_set():
            self._heard = item
            self._asked.set()
            return
        self.sent.append(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self._asked.wait()
        if self._heard:
            heard, self._heard = self._heard, b""
            return self._answer(heard)
        if not self._said:
            raise anyio.EndOfStream
        self.given.set()
        return self._said.pop()

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def served(
    run: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope, stream: Blurting
) -> tuple[list[Message], int]:
    """Serve a client that only listens: what it is sent, and the turns that others had after the server's bytes."""
    sent: list[Message] = []
    turns = 0
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked or scope["type"] == "websocket":
            await anyio.sleep_forever()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    async def wait() -> None:
        nonlocal turns
        await stream.given.wait()
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await run(scope, receive, send)
        tasks.cancel_scope.cancel()
    return sent, turns


def peak_kib(*, reset: bool = False) -> int:
    """The most memory that this process had since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(PIECE)):
        yield PIECE


async def test_a_request_reaches_the_server_as_it_was_sent(app: Published) -> None:
    await app.publish()
    async with app.http("alice") as http:
        answer = await http.post("/echo?a=1&b=%20x&a=2", content=b"hello", headers={"X-Odd": "yes", "Cookie": "mine=1"})
    seen = answer.json()
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("POST", "/echo", "a=1&b=%20x&a=2", "hello")
    assert headers["host"] == headers["x-forwarded-host"] == app.host
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["cookie"] == "mine=1"
    assert headers["x-odd"] == "yes"
    assert "x-api-key" not in headers
    assert "x-forwarded-prefix" not in headers


async def test_a_path_arrives_with_its_encoding_untouched(app: Published) -> None:
    await app.publish(public=True)
    async with app.http() as http:
        assert (await http.get("/a%20b/%C3%A4")).text == "page /a%20b/%C3%A4"
        assert (await http.get("/")).headers["x-page"] == "yes"


async def test_by_path_the_server_sees_itself_and_the_prefix(app: Published) -> None:
    await app.publish()
    async with app.by_path("alice", origin=app.edge.url) as http:
        seen = (await http.get(f"{app.prefix}/echo?x=1")).json()
        headers = dict(seen["headers"])
        assert (seen["path"], seen["query"]) == ("/echo", "x=1")
        assert headers["host"] == f"localhost:{app.port}"
        assert headers["origin"] == f"http://localhost:{app.port}"
        assert headers["x-forwarded-prefix"] == app.prefix
        assert headers["x-forwarded-host"] == app.edge.url.removeprefix("http://")
        named = await http.get(f"/api/sandboxes/box/ports/{app.port}/echo")
        assert named.status_code == 200
        bare = await http.get(f"{app.prefix}?x=1")
        assert (bare.status_code, bare.headers["location"]) == (308, f"{app.prefix}/?x=1")


async def test_redirects_of_the_server_to_itself_stay_below_the_prefix(app: Published) -> None:
    await app.publish()
    cases = {
        "/login?next=/": f"{app.prefix}/login?next=/",
        f"http://localhost:{app.port}/in": f"{app.prefix}/in",
        f"{app.prefix}/known": f"{app.prefix}/known",
        "relative": "relative",
        "//example.com/": "//example.com/",
        "https://example.com/": "https://example.com/",
    }
    async with app.by_path("alice") as by_path, app.http("alice") as by_host:
        for to, found in cases.items():
            answer = await by_path.get(f"{app.prefix}/moved", params={"to": to})
            assert answer.headers["location"] == found
            assert (await by_host.get("/moved", params={"to": to})).headers["location"] == to


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_every_method_passes(app: Published, method: str) -> None:
    await app.publish(public=True)
    async with app.http() as http:
        answer = await http.request(method, "/echo")
    assert answer.status_code == 200
    assert method == "HEAD" or answer.json()["method"] == method


async def test_an_answer_without_a_body_may_state_the_length_that_it_would_have(app: Published) -> None:
    await app.publish(public=True)
    async with app.http() as http:
        answer = await http.get("/unchanged")
        assert (answer.status_code, answer.headers["etag"]) == (304, '"1"')
        assert (await http.head("/download?pieces=1")).status_code == 200


async def test_the_security_headers_of_the_api_are_not_on_pages(app: Published) -> None:
    await app.publish(public=True)
    async with app.http() as http:
        page = await http.get("/")
    assert "content-security-policy" not in page.headers
    assert "cache-control" not in page.headers
    assert page.headers.get_list("date") == [page.headers["date"]]
    assert page.headers["x-request-id"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_goes_up_with_flat_memory(app: Published, chunked: bool) -> None:
    await app.publish()
    digest = hashlib.sha256()
    for _ in range(LARGE // len(PIECE)):
        digest.update(PIECE)
    headers = {} if chunked else {"content-length": str(LARGE)}
    async with app.http("alice") as http:
        await http.post("/upload", content=b"warm")
        before = peak_kib(reset=True)
        answer = await http.post("/upload", content=pieces(LARGE), headers=headers)
    assert answer.json() == {"size": LARGE, "digest": digest.hexdigest()}
    assert peak_kib() - before < 24 * 1024


async def test_a_large_body_comes_down_with_flat_memory(app: Published) -> None:
    await app.publish()
    size = 0
    async with app.http("alice") as http:
        await http.get("/download?pieces=1")
        before = peak_kib(reset=True)
        async with http.stream("GET", f"/download?pieces={LARGE // len(PIECE)}") as answer:
            async for piece in answer.aiter_raw(MIB):
                size += len(piece)
    assert size == LARGE
    assert peak_kib() - before < 24 * 1024


async def test_an_event_arrives_before_the_next_one_is_sent(app: Published, guest_app: GuestApp) -> None:
    await app.publish(public=True)
    seen: list[str] = []
    async with app.http() as http, http.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line:
                seen.append(line)
                guest_app.go_on.set()
    assert seen == ["data: first", "data: second"]


async def test_a_client_that_leaves_ends_the_connection_to_the_server(app: Published, guest_app: GuestApp) -> None:
    await app.publish(public=True)
    async with app.http() as http, http.stream("GET", "/slow") as answer:
        async for piece in answer.aiter_raw():
            assert piece == b"begun"
            break
    with anyio.fail_after(PATIENCE_S):
        await guest_app.left.wait()


async def test_where_nothing_listens_the_answer_says_so(ported: Edge) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    nothing = Published(edge=ported, port=port)
    await nothing.publish(public=True)
    async with nothing.http() as http:
        answer = await http.get("/")
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/plain")
    assert f"Nothing listens on port {port}" in answer.text
    with pytest.raises(InvalidStatus) as refused:
        async with nothing.socket("/", key=""):
            pass
    assert refused.value.response.status_code == 502


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x00\x01\x02garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_a_bad_gateway(ported: Edge, said: bytes) -> None:
    async with raw_server(ported, said) as port:
        await port.publish(public=True)
        async with port.http() as http:
            answer = await http.get("/")
        assert answer.status_code == 502
        assert f"The server on port {port.port} of the sandbox" in answer.text
        with pytest.raises(InvalidStatus) as refused:
            async with port.socket("/", key=""):
                pass
        assert refused.value.response.status_code in {200, 502}


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_an_answer_that_breaks_off_is_seen_to_be_incomplete(ported: Edge, framing: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello"
    async with raw_server(ported, said) as port:
        await port.publish(public=True)
        async with port.http() as http:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get("/")


async def test_an_answer_whose_connection_breaks_is_not_complete(ported: Edge) -> None:
    seen = anyio.Event()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:

        async def serve(client: SocketStream) -> None:
            async with client:
                await client.receive()
                await client.send(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")
                await seen.wait()
                # Hang up with a reset.
                raw = client.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        tasks.start_soon(listener.serve, serve)
        port = Published(edge=ported, port=listener.extra(SocketAttribute.local_port))
        await port.publish(public=True)
        async with port.http() as http, http.stream("GET", "/") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in answer.aiter_raw():
                    assert piece == b"half of it"
                    seen.set()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("status_and_header", [b"600 Odd\r\nX-Odd: a", b"200 OK\r\nX-Odd: a\x01b"])
async def test_an_answer_that_no_client_may_see_is_a_bad_gateway(ported: Edge, status_and_header: bytes) -> None:
    said = b"HTTP/1.1 " + status_and_header + b"\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(ported, said) as port:
        await port.publish(public=True)
        async with port.http() as http:
            answer = await http.get("/")
    assert answer.status_code == 502
    assert f"The server on port {port.port} of the sandbox" in answer.text


async def test_an_answer_in_http_1_0_ends_with_its_connection(ported: Edge) -> None:
    async with raw_server(ported, b"HTTP/1.0 200 Fine\r\nX-Old: yes\r\n\r\nall of it") as port:
        await port.publish(public=True)
        async with port.http() as http:
            answer = await http.get("/")
    assert (answer.status_code, answer.text, answer.headers["x-old"]) == (200, "all of it", "yes")


async def test_trailers_and_headers_of_the_connection_are_dropped(ported: Edge) -> None:
    said = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTrailer: X-Sum\r\nX-Kept: 1\r\n"
        b"Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    async with raw_server(ported, said) as port:
        await port.publish(public=True)
        async with port.http() as http:
            answer = await http.get("/")
    assert (answer.status_code, answer.text, answer.headers["x-kept"]) == (200, "hello", "1")
    assert not {"x-hop", "keep-alive", "trailer", "x-sum", "link"} & set(answer.headers)


async def test_a_server_that_stays_silent_is_a_timeout(hasty: Edge, fleet_of_one: OneHost) -> None:
    async with raw_server(hasty, b"", wait=True) as port:
        await fleet_of_one.ports.publish(ALICE, "box", port.port, public=True)
        async with port.http() as http:
            answer = await http.get("/")
        assert answer.status_code == 504
        assert f"The server on port {port.port} of the sandbox did not answer within" in answer.text
        with pytest.raises(InvalidStatus) as refused:
            async with port.socket("/", key=""):
                pass
        assert refused.value.response.status_code == 504


async def test_a_server_that_does_not_read_is_a_timeout(hasty: Edge, fleet_of_one: OneHost) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:

        async def deaf(client: SocketStream) -> None:
            async with client:
                await anyio.sleep_forever()

        tasks.start_soon(listener.serve, deaf)
        port = Published(edge=hasty, port=listener.extra(SocketAttribute.local_port))
        await fleet_of_one.ports.publish(ALICE, "box", port.port, public=True)
        async with port.http() as http:
            answer = await http.post("/", content=pieces(LARGE), headers={"content-length": str(LARGE)})
        assert answer.status_code == 504
        tasks.cancel_scope.cancel()


async def test_pythons_own_file_server_works(ported: Edge, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>hello")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            port = Published(edge=ported, port=server.server_address[1])
            await port.publish(public=True)
            async with port.http() as http:
                assert (await http.get("/")).text == "<p>hello"
                assert (await http.get("/missing")).status_code == 404
        finally:
            server.shutdown()
            thread.join()


async def test_messages_of_a_websocket_pass_both_ways(app: Published) -> None:
    await app.publish()
    large = "x" * (2 * MIB)
    async with app.socket(subprotocols=["vite-hmr", "other"]) as socket:
        assert socket.subprotocol == "vite-hmr"
        for message in ("hello", "", "ä", b"\x00\xff", large, large.encode()):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send("headers")
        headers = json.loads(await socket.recv())
    assert headers["host"] == app.host
    assert "x-api-key" not in headers
    assert headers["x-forwarded-proto"] == "http"


async def test_messages_that_arrive_with_the_handshake_are_passed_on(ported: Edge) -> None:
    async with socket_server(ported, b"\x81\x05hello\x81\x02!!\x88\x02\x0f\xa1") as port:
        await port.publish(public=True)
        async with port.socket("/", key="") as socket:
            assert [await socket.recv(), await socket.recv()] == ["hello", "!!"]
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
        assert socket.close_code == 4001


@pytest.mark.parametrize(
    ("frame", "answered"), [(b"\x89\x00", True), (b"\x8a\x00", False), (b"\x00\x00", False)], ids=str
)
async def test_tiny_frames_of_a_server_leave_time_for_everybody_else(frame: bytes, answered: bool) -> None:
    wire = ServerProtocol()
    said = frame * 32_760
    if frame[0] == 0:  # fragments of a message
        said = b"\x01\x01a" + said + b"\x80\x01b"

    def answer(heard: bytes) -> bytes:
        wire.receive_data(heard)
        (request,) = wire.events_received()
        assert isinstance(request, Request)
        wire.send_response(wire.accept(request))
        return b"".join(wire.data_to_send())

    stream = Blurting(answer, said)
    scope = {**SCOPE, "type": "websocket", "scheme": "ws"}
    sent, turns = await served(SocketExchange(stream, PLACE).run, scope, stream)
    assert turns >= len(said) // SLICE - 1
    assert len(stream.sent) < 100
    assert b"".join(stream.sent).count(b"\x8a\x80") >= (32_000 if answered else 0)
    texts = [message["text"] for message in sent if message["type"] == "websocket.send"]
    assert texts == ([] if frame[0] else ["ab"])


async def test_tiny_chunks_of_a_server_leave_time_for_everybody_else() -> None:
    said = b"1\r\nx\r\n" * 10_900 + b"0\r\n\r\n"
    stream = Blurting(lambda _heard: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", said)
    sent, turns = await served(Exchange(stream, PLACE).run, {**SCOPE, "type": "http"}, stream)
    bodies = [message["body"] for message in sent if message["type"] == "http.response.body"]
    assert b"".join(bodies) == b"x" * 10_900
    assert len(bodies) < 4
    assert turns >= len(said) // SLICE - 1


async def test_a_websocket_works_by_path(app: Published) -> None:
    await app.publish(public=True)
    url = f"ws{app.edge.url.removeprefix('http')}{app.prefix}/socket"
    async with connect(url, proxy=None, origin=Origin(app.edge.url)) as socket:
        await socket.send("headers")
        headers = json.loads(await socket.recv())
    assert headers["host"] == f"localhost:{app.port}"
    assert headers["origin"] == f"http://localhost:{app.port}"


async def test_the_codes_with_which_sides_close_reach_the_other(app: Published, guest_app: GuestApp) -> None:
    await app.publish(public=True)
    async with app.socket(key="") as socket:
        await socket.send("close")
        with pytest.raises(ConnectionClosedError):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish")
    async with app.socket(key="") as socket:
        await socket.close(4002, "bye")
    with anyio.fail_after(PATIENCE_S):
        await guest_app.left.wait()


@pytest.mark.parametrize(
    "error", [Unavailable("/srv/host is full"), StoreUnavailable("db.example.com is down")], ids=repr
)
async def test_only_callers_with_a_key_are_told_what_is_wrong_with_this_host(
    with_ports: Services, keys: dict[str, str], error: Exception
) -> None:
    @asynccontextmanager
    async def failing(_owner: str, _ref: str, _port: int) -> AsyncGenerator[ByteStream]:
        raise error
        yield

    services = replace(with_ports, dial=failing)
    async with serving(services.web(), keys, services.identity.run) as edge:
        port = Published(edge=edge, port=8000)
        await port.publish(public=True)
        async with port.http() as nobody, port.http("alice") as alice:
            told, known = await nobody.get("/"), await alice.get("/")
    assert (told.status_code, known.status_code) == (503, 503)
    assert told.text == "This port cannot be opened now. Try again in a few seconds.\n"
    assert str(error) in known.text


@pytest.mark.parametrize("crowded", [False, True])
async def test_a_client_that_leaves_during_the_handshake_is_no_failure(
    visitors: Visitors, visits: Visits, fleet_of_one: OneHost, app: Published, crowded: bool
) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
    place = Place(ref=SANDBOX, port=app.port, prefix="", path=b"/socket")
    headers = [(b"host", app.host.encode())]
    scope: Scope = {**SCOPE, "type": "websocket", "scheme": "ws", "headers": headers, "state": {"place": place}}
    tried: list[str] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def gone(message: Message) -> None:
        tried.append(message["type"])
        raise ClientDisconnected

    with visits.opened(SANDBOX, 1) if crowded else nullcontext():
        await visitors(scope, receive, gone)
    assert tried == ["websocket.close" if crowded else "websocket.accept"]


async def test_a_refused_handshake_is_answered_as_the_server_did(app: Published) -> None:
    await app.publish(public=True)
    with pytest.raises(InvalidStatus) as refused:
        async with app.socket("/refused", key=""):
            pass
    assert refused.value.response.status_code == 418
    assert refused.value.response.body == b"not for you"


async def test_a_sandbox_has_only_so_many_connections(hasty: Edge, fleet_of_one: OneHost, app: Published) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
    port = Published(edge=hasty, port=app.port)
    async with port.http() as http:
        async with port.socket(key=""):
            answer = await http.get("/")
        assert answer.status_code == 503
        assert "too many open connections" in answer.text
        await until(lambda: _is_let_in(http))


async def test_a_client_that_takes_nothing_has_left(
    hasty: Edge, visits: Visits, fleet_of_one: OneHost, app: Published
) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
    port = Published(edge=hasty, port=app.port)
    client = await anyio.connect_tcp("127.0.0.1", urlsplit(hasty.url).port or 0)
    async with client:
        await client.send(f"GET /download?pieces=10000 HTTP/1.1\r\nHost: {port.host}\r\n\r\n".encode())
        assert await client.receive(12) == b"HTTP/1.1 200"
        await until(lambda: _nobody_is_there(visits))


async def _nobody_is_there(visits: Visits) -> bool:
    return len(visits) == 0


async def _is_let_in(http: httpx.AsyncClient) -> bool:
    return (await http.get("/")).status_code == 200
