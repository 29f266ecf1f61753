"""Names that a client announces when it connects: the server name in a TLS ClientHello, the authority in HTTP/1.

Everything here is pure. What cannot be read without doubt counts as no name, because a server that reads it
differently would open what the policy does not allow.

Source: RFC 8446 section 4.1.2 and 5.1 (ClientHello, records), RFC 6066 section 3 (server_name), RFC 9849 (ECH).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST = 16 * 1024
"""Bytes within which a ClientHello, or the head of a request, must end."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RECORD_MOST = 2**14
_SERVER_NAME = 0
_HOST_NAME = 0
_ENCRYPTED = frozenset({0xFE0D, 0xFFCE})
"""The extensions encrypted_client_hello, and encrypted_server_name of the drafts before it."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAME_MOST = 253
_AUTHORITY = re.compile(r"([^:@\[\]]*)(?::[0-9]{0,5})?")


class Unnamed(Exception):
    """The first bytes announce no name, or not in a way that leaves no doubt; the text says what they do instead."""


def is_tls(first_bytes: bytes) -> bool:
    """Tell whether first bytes begin a TLS handshake; no request of HTTP begins that way."""
    return first_bytes[:1] == bytes([_HANDSHAKE])


def server_name(first_bytes: bytes) -> str | None:
    """Read the name from a TLS ClientHello.

    Args:
        first_bytes: All that the client has sent so far; what follows the ClientHello is ignored.

    Returns:
        The name in lower case, or None while more bytes are needed.

    Raises:
        Unnamed: There is no name, it may be a cover for another one (ECH), or this is no ClientHello.
    """
    hello = _hello(first_bytes)
    return None if hello is None else _name_in(hello)


def authority(text: bytes) -> str:
    """Read the name from the value of `Host`, or from the authority of a URL; a port is left out.

    Raises:
        Unnamed: It is not a name or IPv4 address.
    """
    found = _AUTHORITY.fullmatch(text.decode("latin-1"))
    if found is None:
        raise Unnamed("a Host that is no name")
    return _name(found[1].encode("latin-1"), "Host")


def _name(text: bytes, place: str) -> str:
    name = text.decode("latin-1").lower().removesuffix(".")
    if len(name) > _NAME_MOST or not _NAME.fullmatch(name):
        raise Unnamed(f"a {place} that is no name")
    return name


def _hello(data: bytes) -> bytes | None:
    """Put the ClientHello together from the records that carry it; None while bytes are missing."""
    message = bytearray()
    start = 0
    while True:
        header = data[start : start + 5]
        if header[:1] not in {b"", bytes([_HANDSHAKE])} or header[1:2] not in {b"", b"\x03"}:
            raise Unnamed("no TLS ClientHello")
        length = int.from_bytes(header[3:5], "big")
        if len(header) == 5 and not 0 < length <= _RECORD_MOST:
            raise Unnamed("a damaged TLS record")
        message += data[start + 5 : start + 5 + length]
        if message and message[0] != _CLIENT_HELLO:
            raise Unnamed("no TLS ClientHello")
        needed = 4 + int.from_bytes(message[1:4], "big") if len(message) >= 4 else 0
        if needed > MOST:
            raise Unnamed(f"a TLS ClientHello of more than {MOST // 1024} KiB")
        if needed and len(message) >= needed:
            return bytes(message[4:needed])
        if len(header) < 5 or len(data) < start + 5 + length:
            if len(data) >= MOST:
                raise Unnamed(f"a TLS ClientHello of more than {MOST // 1024} KiB")
            return None
        start += 5 + length


@dataclass(slots=True)
class _Reader:
    """Reads the fields of a message in turn."""

    data: bytes
    at: int = 0

    @property
    def more(self) -> bool:
        return self.at < len(self.data)

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise Unnamed("a damaged TLS ClientHello")
        self.at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Take a field that begins with its length, in so many bytes."""
        return self.take(self.number(size))


def _name_in(hello: bytes) -> str:
    body = _Reader(hello)
    body.take(2 + 32)  # version, random
    body.vector(1)  # session id
    body.vector(2)  # cipher suites
    body.vector(1)  # compression methods
    extensions = _Reader(body.vector(2) if body.more else b"")
    if body.more:
        raise Unnamed("a damaged TLS ClientHello")
    found: list[bytes] = []
    while extensions.more:
        kind, value = extensions.number(2), extensions.vector(2)
        if kind in _ENCRYPTED:
            # Also where it is only grease: nobody but the server can tell, and it would serve the hidden name.
            raise Unnamed("an encrypted ClientHello (ECH), which may hide another name")
        if kind == _SERVER_NAME:
            found.append(value)
    if not found:
        raise Unnamed("a TLS ClientHello without a server name (SNI)")
    names = _Reader(found[0])
    entries = _Reader(names.vector(2))
    if len(found) > 1 or names.more or entries.number(1) != _HOST_NAME:
        raise Unnamed("a server name (SNI) that leaves doubt")
    name = entries.vector(2)
    if entries.more:
        raise Unnamed("more than one server name (SNI)")
    return _name(name, "server name (SNI)")
