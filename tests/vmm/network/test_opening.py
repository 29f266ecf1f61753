"""What a program begins with is told as early as that is certain, and never later than where the first line ends."""

from __future__ import annotations

import pytest

from tests.vmm.network.hellos import hello
from vmm.network.announced import MOST, Unnamed
from vmm.network.opening import Kind, Opening

HTTP = (
    b"GET / HTTP/1.1\r\n",
    b"\r\n\n GET / HTTP/1.1\r\n",
    b"purge\t/x y\thttp/1.1\r\n",
    b"X-OWN_METHOD /" + b"x" * 9000 + b" HTTP/1.0\r\n",
    b"GET /\x01 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT example.com:443 HTTP/1.1\r\n",
)
OTHERS = (
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"EHLO example.com\r\n",
    b'CONNECT {"verbose":false}\r\n',
    b"GET key\r\n HTTP/1.1\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"0033git-upload-pack /project.git\0host=example.com\0",
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"OPTIONS rtsp://example.com RTSP/1.0\r\n",
    b"0 \x02\x01\x01\x60\x1b",  # LDAP
    b"\x16\x02",
    b"{}",
)


def read(sent: bytes, size: int) -> tuple[Kind | None, bytes]:
    """What it is taken for, and what was let through before that was certain."""
    opening = Opening()
    through = b""
    for start in range(0, len(sent), size):
        kind, ready = opening.feed(sent[start : start + size])
        through += ready
        if kind is not None:
            assert (through + bytes(opening.held)) == sent[: start + size]
            return kind, through
    return None, through


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        *((sent, Kind.HTTP) for sent in HTTP),
        *((sent, Kind.OTHER) for sent in OTHERS),
        (hello("example.com"), Kind.TLS),
        (b"\x16\x03\x01\0\0", Kind.TLS),
    ],
    ids=lambda value: "sent" if isinstance(value, bytes) else None,
)
def test_a_protocol_is_told_by_its_first_bytes_in_whatever_pieces_they_come(sent: bytes, kind: Kind, size: int) -> None:
    found, through = read(sent, size)
    assert found is kind
    assert not through.strip()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\x16", b"G", b"GET", b"GET ", b"GET /", b"GET / HTTP", b"hello"])
def test_what_may_become_a_request_is_held(sent: bytes) -> None:
    assert read(sent, 1) == (None, sent if not sent.strip() else b"")


@pytest.mark.parametrize("size", [1, 1000])
def test_a_first_line_without_an_end_is_not_held_for_ever(size: int) -> None:
    with pytest.raises(Unnamed, match="more than 16 KiB"):
        read(b"GET /" + b"x" * MOST, size)
    assert read(b"x" * (MOST + size), size)[0] is Kind.OTHER
