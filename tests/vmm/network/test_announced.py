"""Names are read from real ClientHellos, whatever their pieces; what leaves doubt is no name."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.network.hellos import body, hello, records, server_names, with_extension
from vmm.network.announced import MOST, Unnamed, authority, is_tls, server_name

ECH, OLD_ESNI, SNI, PADDING = 0xFE0D, 0xFFCE, 0, 21

HELLO = hello("www.example.com")
NAMELESS = hello(None)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda label: "--" not in label)


@given(st.lists(labels, min_size=2, max_size=5).map(".".join))
def test_the_server_name_of_a_real_client_is_read(name: str) -> None:
    name = f"{name}.example"
    assert server_name(hello(name)) == name


def test_a_name_is_read_in_lower_case_and_without_a_final_dot() -> None:
    named = with_extension(NAMELESS, SNI, server_names(b"WWW.Example.COM."))
    assert server_name(named) == "www.example.com"


def test_a_part_of_a_hello_needs_more_bytes() -> None:
    assert {server_name(HELLO[:length]) for length in range(len(HELLO))} == {None}


@given(st.binary(max_size=2000))
def test_what_follows_a_hello_does_not_matter(rest: bytes) -> None:
    assert server_name(HELLO + rest) == "www.example.com"


@given(st.integers(1, 600), st.integers(0, 600))
def test_a_hello_may_come_in_many_records(size: int, cut: int) -> None:
    fragmented = records(body(HELLO), size)
    assert server_name(fragmented) == "www.example.com"
    assert server_name(fragmented[: max(0, len(fragmented) - 1 - cut)]) in {None, "www.example.com"}


@given(st.binary(max_size=300))
def test_any_bytes_give_a_name_or_need_more_or_have_none(data: bytes) -> None:
    for first_bytes in (data, b"\x16\x03\x01" + data, HELLO[:43] + data):
        try:
            name = server_name(first_bytes)
        except Unnamed:
            continue
        assert name is None or authority(name.encode()) == name


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_hello_with_a_changed_byte_gives_no_name_that_is_not_in_it(place: int, value: int) -> None:
    changed = HELLO[:place] + bytes([value]) + HELLO[place + 1 :]
    try:
        name = server_name(changed)
    except Unnamed:
        return
    assert name is None or name.encode() in changed.lower()


@pytest.mark.parametrize(
    ("first_bytes", "reason"),
    [
        (NAMELESS, "without a server name"),
        (with_extension(HELLO, ECH, b"\0" * 40), "encrypted ClientHello"),
        (with_extension(NAMELESS, ECH, b"\0" * 40), "encrypted ClientHello"),
        (with_extension(HELLO, OLD_ESNI, b"\0" * 40), "encrypted ClientHello"),
        (with_extension(HELLO, SNI, server_names(b"example.org")), "leaves doubt"),
        (with_extension(NAMELESS, SNI, server_names(b"example.com", b"example.org")), "more than one"),
        (with_extension(NAMELESS, SNI, server_names(b"example.com") + b"\0"), "leaves doubt"),
        (with_extension(NAMELESS, SNI, server_names()), "damaged"),
        (with_extension(NAMELESS, SNI, server_names(b"")), "no name"),
        (with_extension(NAMELESS, SNI, server_names(b"example.com\0.example.org")), "no name"),
        (with_extension(NAMELESS, SNI, server_names("exämple.com".encode())), "no name"),
        (with_extension(NAMELESS, SNI, server_names(b"a" * 300)), "no name"),
        (with_extension(HELLO, PADDING, bytes(MOST)), "more than 16 KiB"),
        (records(body(HELLO), 10)[:30] + b"\x15\x03\x01\0\2\2\0", "no TLS ClientHello"),
        (b"\x16\x03\x01\0\0" + HELLO, "damaged TLS record"),
        (b"\x16\x03\x01\xff\xff", "damaged TLS record"),
        (b"\x16\x03\x01\0\4\2\0\0\0", "no TLS ClientHello"),
        (b"\x80\x2e\x01\x03\x01", "no TLS ClientHello"),
        (b"SSH-2.0-example\r\n", "no TLS ClientHello"),
        (b"\x16\x03\x01\0\1\1" * (MOST // 6 + 1), "more than 16 KiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "sent",  # a hello is random, and names of tests must not be
)
def test_what_leaves_doubt_about_the_name_has_none(first_bytes: bytes, reason: str) -> None:
    with pytest.raises(Unnamed, match=reason):
        server_name(first_bytes)


def test_a_hello_that_promises_more_than_it_may_hold_is_not_waited_for() -> None:
    with pytest.raises(Unnamed, match="more than 16 KiB"):
        server_name(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff")


def test_only_a_handshake_is_taken_for_tls() -> None:
    assert is_tls(HELLO)
    assert not is_tls(b"GET / HTTP/1.1\r\n")
    assert not is_tls(b"")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"example.com", "example.com"),
        (b"Example.COM.", "example.com"),
        (b"example.com:8080", "example.com"),
        (b"example.com:", "example.com"),
        (b"198.51.100.7", "198.51.100.7"),
        (b"_dmarc.example.com", "_dmarc.example.com"),
    ],
)
def test_an_authority_has_a_name_and_maybe_a_port(text: bytes, name: str) -> None:
    assert authority(text) == name


@pytest.mark.parametrize(
    "text",
    [b"", b".", b"a..b", b"[2001:db8::1]", b"example.com:x", b"user@example.com", b"example.com, example.org", b"a b"],
)
def test_an_authority_that_is_no_name_has_none(text: bytes) -> None:
    with pytest.raises(Unnamed, match="no name"):
        authority(text)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_server_name_of_curl_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = ["curl", "--silent", "--noproxy", "*", "--connect-to", f"::127.0.0.1:{port}", "https://example.com/"]
        with subprocess.Popen(command) as curl:
            client, _ = server.accept()
            with client:
                received = b""
                while (name := server_name(received)) is None:
                    received += client.recv(100)
            curl.wait()
    assert name == "example.com"
