"""Headers at the border between a client and a server in a sandbox. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .cookies import guests_cookie, without_own

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from .names import Place

Header = tuple[bytes, bytes]

SANDBOXED = b"sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
"""Content-Security-Policy that gives a page an origin of its own, although its path is on the API's host."""

_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_OURS = frozenset({b"x-api-key", b"x-org-id", b"host", b"expect", b"forwarded", b"x-real-ip"})
_FORWARDED = b"x-forwarded-"
_HANDSHAKE = b"sec-websocket-"
_ALWAYS_DROPPED = frozenset({b"date", b"alt-svc", b"clear-site-data", b"nel", b"report-to"})
"""Of answers: the server sends a date of its own; the others would concern more than the port."""

_NONE: frozenset[bytes] = frozenset()
_DROPPED_BY_PATH = frozenset({b"strict-transport-security", b"service-worker-allowed", b"public-key-pins"})


def host_of(scope: Scope) -> str:
    """Return the Host header; empty if there is none."""
    headers: list[Header] = scope["headers"]
    return next((value.decode("latin-1") for name, value in headers if name.lower() == b"host"), "")


def host_of_origin(origin: bytes) -> str:
    """Return the host and port of an Origin header, in lower case; empty if it names none."""
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:
        return ""


def web_scheme(scope: Scope) -> str:
    """Return http or https, also for WebSockets."""
    return "https" if scope["scheme"] in {"https", "wss"} else "http"


def to_guest(scope: Scope, place: Place) -> list[Header]:
    """Build the headers of a request for the guest, without credentials and cookies of ours.

    By host name the guest sees the host that the client sees. By path it sees itself, `localhost` with its port, and
    `X-Forwarded-Prefix`.
    """
    headers: list[Header] = scope["headers"]
    public = host_of(scope)
    own = f"localhost:{place.port}" if place.prefix else public
    dropped = _named_by_connection(headers)
    made: list[Header] = [(b"host", own.encode("latin-1"))]
    for given, value in headers:
        name = given.lower()
        if name in dropped or name in _OURS or name.startswith((_FORWARDED, _HANDSHAKE)):
            continue
        if name == b"cookie":
            left = without_own(value)
            made += [(name, left)] if left else []
        elif name == b"origin" and place.prefix and host_of_origin(value) == public.lower():
            made.append((name, f"http://{own}".encode()))
        else:
            made.append((name, value))
    client = scope.get("client")
    made += [
        (b"x-forwarded-for", (client[0] if client else "unknown").encode()),
        (b"x-forwarded-proto", web_scheme(scope).encode()),
        (b"x-forwarded-host", public.encode("latin-1")),
    ]
    if place.prefix:
        made.append((b"x-forwarded-prefix", place.prefix.encode()))
    return made


def from_guest(headers: Iterable[Header], place: Place, *, sandboxed: bool = False) -> list[Header]:
    """Build the headers of an answer for the client.

    Args:
        headers: Those of the guest.
        place: The port.
        sandboxed: Whether the page must not have the origin of the API.
    """
    given = [(name.lower(), value) for name, value in headers]
    dropped = _named_by_connection(given) | _ALWAYS_DROPPED | (_DROPPED_BY_PATH if place.prefix else _NONE)
    made: list[Header] = []
    for name, value in given:
        if name in dropped or name.startswith(_HANDSHAKE):
            continue
        if name == b"set-cookie":
            kept = guests_cookie(value, place.prefix)
            made += [(name, kept)] if kept else []
        elif name == b"location" and place.prefix:
            made.append((name, _moved(value, place)))
        else:
            made.append((name, value))
    if sandboxed:
        made.append((b"content-security-policy", SANDBOXED))
    return made


def _named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    named = {
        part.strip().lower() for name, value in headers if name.lower() == b"connection" for part in value.split(b",")
    }
    # A body's framing and the host are never for one hop alone, whatever a client says.
    return _HOP | (named - {b"content-length", b"host", b"cookie", b"set-cookie", b"location"})


def _moved(location: bytes, place: Place) -> bytes:
    """Put a redirect of the guest to itself below the prefix, unless it knows the prefix."""
    prefix, own = place.prefix.encode(), f"http://localhost:{place.port}".encode()
    if location == own or location.startswith(own + b"/"):
        location = location[len(own) :] or b"/"
    inside = location.startswith(b"/") and not location.startswith((b"//", b"/\\"))
    if inside and location != prefix and not location.startswith(prefix + b"/"):
        return prefix + location
    return location
