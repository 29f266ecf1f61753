"""What passes between a client and a server in a sandbox: requests, bodies of any size, events."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import AsyncIterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from websockets.exceptions import InvalidStatus

from mcp_server.ports.proxy import SLICE, Exchange
from tests.mcp_server.edge import Edge
from tests.mcp_server.host import ALICE, OneHost
from tests.mcp_server.ports.conftest import Published
from tests.mcp_server.ports.guest_app import PIECE, GuestApp
from tests.mcp_server.ports.servers import PLACE, SCOPE, Blurting, raw_server, served, tcp_server
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


MIB = 1024 * 1024
LARGE = 64 * MIB


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

    async def serve(client: SocketStream) -> None:
        await client.receive()
        await client.send(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")
        await seen.wait()
        # Hang up with a reset.
        raw = client.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with tcp_server(ported, serve) as port:
        await port.publish(public=True)
        async with port.http() as http, http.stream("GET", "/") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in answer.aiter_raw():
                    assert piece == b"half of it"
                    seen.set()


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
    async def deaf(_client: SocketStream) -> None:
        await anyio.sleep_forever()

    async with tcp_server(hasty, deaf) as port:
        await fleet_of_one.ports.publish(ALICE, "box", port.port, public=True)
        async with port.http() as http:
            answer = await http.post("/", content=pieces(LARGE), headers={"content-length": str(LARGE)})
        assert answer.status_code == 504


async def test_pythons_own_file_server_works(ported: Edge, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>hello")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name for it)
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
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


async def test_tiny_chunks_of_a_server_leave_time_for_everybody_else() -> None:
    said = b"1\r\nx\r\n" * 10_900 + b"0\r\n\r\n"
    stream = Blurting(lambda _heard: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", said)
    sent, turns = await served(Exchange(stream, PLACE).run, {**SCOPE, "type": "http"}, stream)
    bodies = [message["body"] for message in sent if message["type"] == "http.response.body"]
    assert b"".join(bodies) == b"x" * 10_900
    assert len(bodies) < 4
    assert turns >= len(said) // SLICE - 1
