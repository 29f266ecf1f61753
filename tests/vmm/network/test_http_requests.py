"""Each request on a connection names its host; what a server may read differently is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.network.announced import MOST, Unnamed
from vmm.network.http_requests import HttpRequests

GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: Example.ORG:80\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: www.example.net\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"
)
EVIL = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
NAMES = {GET: "example.com", POST: "example.org", CHUNKED: "www.example.net"}


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


@given(st.lists(st.sampled_from([GET, POST, CHUNKED]), min_size=1, max_size=6), st.lists(st.integers(0, 5000)))
def test_every_request_is_named_and_everything_is_passed_on_in_order(stream: list[bytes], cuts: list[int]) -> None:
    requests = HttpRequests()
    named: set[str] = set()
    passed = b""
    for piece in pieces(b"".join(stream), cuts):
        names, ready = requests.feed(piece)
        named |= names
        passed += ready
    assert named == {NAMES[request] for request in stream}
    assert passed == b"".join(stream)


@given(st.lists(st.sampled_from([GET, POST, CHUNKED]), max_size=3), st.lists(st.integers(0, 5000)))
def test_no_byte_of_a_head_is_passed_on_before_its_host_is_known(stream: list[bytes], cuts: list[int]) -> None:
    requests = HttpRequests()
    passed = b""
    before = b"".join(stream)
    for piece in pieces(before + EVIL, cuts):
        names, ready = requests.feed(piece)
        if "evil.example" in names:
            assert ready.endswith(EVIL)
            break
        passed += ready
    assert len(passed) <= len(before)


def test_both_the_url_and_the_host_are_named() -> None:
    names, _ = HttpRequests().feed(b"GET http://Example.org:80/x?y HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert names == {"example.com", "example.org"}


def test_a_request_for_the_server_itself_has_a_name() -> None:
    names, _ = HttpRequests().feed(b"OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert names == {"example.com"}


def test_a_request_of_http_1_0_with_a_host_has_a_name() -> None:
    names, _ = HttpRequests().feed(b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n")
    assert names == {"example.com"}


UPGRADE = b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def test_what_follows_an_offer_to_upgrade_is_read_as_requests_still() -> None:
    requests = HttpRequests()
    assert requests.feed(UPGRADE) == ({"example.com"}, UPGRADE)
    names, _ = requests.feed(EVIL)
    assert names == {"evil.example"}
    names, _ = HttpRequests().feed(UPGRADE + EVIL)
    assert names == {"example.com", "evil.example"}


@pytest.mark.parametrize("frames", [b"\x81\x85\0\0\0\0hello", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_another_protocol_after_an_offer_to_upgrade_is_refused(frames: bytes) -> None:
    requests = HttpRequests()
    requests.feed(UPGRADE)
    with pytest.raises(Unnamed):
        requests.feed(frames)


def request(line: str = "GET / HTTP/1.1", *headers: str) -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (request("GET / HTTP/1.1"), "without Host"),
        (request("GET / HTTP/1.0"), "without Host"),
        (b"GET /\r\n\r\n", "without Host"),
        (request("GET / HTTP/1.1", "Host: example.com", "Host: example.com"), "more than one Host"),
        (request("GET / HTTP/1.1", "Host:"), "no name"),
        (request("GET / HTTP/1.1", "Host: [2001:db8::1]"), "no name"),
        (request("GET / HTTP/1.1", "Host: example.com, evil.example"), "no name"),
        (request("GET / HTTP/1.1", "Host: example.com", " evil.example"), "no request"),
        (request("GET / HTTP/1.1", "Host : example.com"), "no request"),
        (request("GET / HTTP/1.1", "X: a\rHost: evil.example", "Host: example.com"), "no request"),
        (b"GET / HTTP/1.1\nHost: example.com\n\n", "no request"),
        (request("GET http://example.com@evil.example/ HTTP/1.1", "Host: example.com"), "no name|no request"),
        (request("GET ftp://evil.example/ HTTP/1.1", "Host: example.com"), "no URL"),
        (request("CONNECT example.com:443 HTTP/1.1", "Host: example.com"), "CONNECT"),
        (request("GET / HTTP/1.1", "Host: example.com", "Content-Length: 5", "Transfer-Encoding: chunked"), "no req"),
        (request("GET / HTTP/1.1", "Host: example.com", "Content-Length: 5", "Content-Length: 6"), "no request"),
        (request("GET / HTTP/1.1", "Host: example.com", "Content-Length: 5", "Upgrade: h2c"), "Upgrade"),
        (request("GET / HTTP/1.0", "Host: example.com", "Transfer-Encoding: chunked"), "HTTP/1.0"),
        (request("GET / HTTP/1.1", "Host: example.com", "Transfer-Encoding: chunked, x"), "no request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 without TLS"),
        (b"SSH-2.0-example\r\n", "no request"),
        (b"\0\0\0", "no request"),
    ],
)
def test_a_request_that_leaves_doubt_is_refused(sent: bytes, reason: str) -> None:
    with pytest.raises(Unnamed, match=reason):
        HttpRequests().feed(sent)


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_requests_or_refused(data: bytes) -> None:
    for sent in (data, GET[:20] + data, GET + data):
        requests = HttpRequests()
        try:
            names, ready = requests.feed(sent)
        except Unnamed:
            continue
        assert names or not ready.strip(b"\r\n")


def test_a_request_without_end_is_refused() -> None:
    requests = HttpRequests()
    requests.feed(b"GET / HTTP/1.1\r\nX: ")
    with pytest.raises(Unnamed, match="more than 16 KiB"):
        for _ in range(MOST // 1000 + 1):
            requests.feed(b"x" * 1000)


def test_trailers_without_end_are_refused() -> None:
    requests = HttpRequests()
    requests.feed(CHUNKED.removesuffix(b"\r\n\r\n"))
    with pytest.raises(Unnamed, match="more than 16 KiB"):
        for _ in range(MOST // 1000 + 1):
            requests.feed(b"x" * 1000)


def test_a_body_may_be_of_any_length() -> None:
    requests = HttpRequests()
    requests.feed(b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(100):
        assert requests.feed(bytes(100_000)) == (frozenset(), bytes(100_000))
    assert requests.feed(GET) == ({"example.com"}, GET)
