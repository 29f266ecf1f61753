"""Cookies at the border: ours never reach the guest, the guest's stay with its port. Pure."""

from __future__ import annotations

_NAME = "casemate_port"
_HOST_NAME = f"__Host-{_NAME}"
_OWN = frozenset({_NAME, _HOST_NAME})


def own_cookies(headers: list[tuple[bytes, bytes]]) -> list[str]:
    """Return the values of our cookies in a request; several if a page of another host has added some."""
    found: list[str] = []
    for name, value in headers:
        if name.lower() == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                cookie, _, text = pair.strip().partition("=")
                if cookie.strip() in _OWN:
                    found.append(text.strip())
    return found


def without_own(value: bytes) -> bytes:
    """Return a Cookie header without our cookies; empty if none is left."""
    pairs = [pair.strip() for pair in value.split(b";")]
    return b"; ".join(pair for pair in pairs if pair and not _is_own(pair))


def own_cookie(token: str, *, prefix: str, lasts_s: int, secure: bool) -> str:
    """Build the Set-Cookie header that opens a port: for its host alone, or for its path alone.

    Args:
        token: The value.
        prefix: The path of the port's root; empty if its host name says the port.
        lasts_s: Seconds until it expires.
        secure: Whether the client reached the server over TLS.
    """
    # The prefix of the name makes browsers refuse the cookie from every other host of the domain.
    name = _HOST_NAME if secure and not prefix else _NAME
    flags = "; Secure" if secure else ""
    return f"{name}={token}; Path={prefix}/; Max-Age={lasts_s}; HttpOnly; SameSite=Lax{flags}"


def guests_cookie(value: bytes, prefix: str) -> bytes:
    """Keep a cookie that the guest sets with its own port; empty if it has a name of ours.

    Args:
        value: The Set-Cookie header.
        prefix: The path of the port's root, below which the cookie's path is put; empty if the host name says the port.
    """
    cookie, *attributes = value.split(b";")
    if _is_own(cookie.strip()):
        return b""
    kept = [cookie.strip()]
    paths: list[bytes] = []
    for attribute in attributes:
        name, _, text = attribute.strip().partition(b"=")
        match name.strip().lower():
            case b"domain":
                continue
            case b"path" if prefix:
                paths.append(text.strip())
            case _:
                kept.append(attribute.strip())
    if prefix:
        kept.append(b"Path=" + _below(prefix.encode(), paths[-1] if paths else b"/"))
    return b"; ".join(kept)


def _below(prefix: bytes, path: bytes) -> bytes:
    if path == prefix or path.startswith(prefix + b"/"):
        return path if path != prefix else path + b"/"
    return prefix + (path if path.startswith(b"/") else b"/")


def _is_own(pair: bytes) -> bool:
    return pair.partition(b"=")[0].strip().decode("latin-1") in _OWN
