"""Real ClientHellos, made by OpenSSL, and changes to them that it would not make."""

from __future__ import annotations

import ssl


def hello(name: str | None) -> bytes:
    """What a client of TLS sends first, with a server name or without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake needs a server")


def body(record: bytes) -> bytes:
    """The handshake message in one record."""
    return record[5:]


def records(message: bytes, size: int) -> bytes:
    """The same message in records of a size."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def with_extension(record: bytes, kind: int, value: bytes) -> bytes:
    """A ClientHello with one extension more."""
    message = body(record)[4:]
    at = 34
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    at += 1 + message[at]
    extensions = message[at + 2 :] + kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
    changed = message[:at] + len(extensions).to_bytes(2, "big") + extensions
    return records(b"\x01" + len(changed).to_bytes(3, "big") + changed, 2**14)


def server_names(*names: bytes) -> bytes:
    """The value of the extension server_name."""
    entries = b"".join(b"\0" + len(name).to_bytes(2, "big") + name for name in names)
    return len(entries).to_bytes(2, "big") + entries
