"""The requests that a client sends over one HTTP/1 connection: which host each of them names.

A connection is kept for several requests, and each may name another host of a shared address, so the whole stream is
followed. It is parsed by llhttp in its strict mode, and what another server may read differently is refused: otherwise
the body of one request could be the next request to it.

Source: RFC 9112, section 3.2 (request target), 6 (length of the body), 9.3 (kept connections).
"""

from __future__ import annotations

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from .announced import MOST, Unnamed, authority

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_HTTP_2 = b"PRI * HTTP/2"


class HttpRequests:
    """Follows the requests of one connection."""

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self._held = bytearray()
        self._quiet = 0
        self._in_head = False
        self._upgraded = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._names: set[str] = set()
        self._failure: Unnamed | None = None

    def feed(self, data: bytes) -> tuple[frozenset[str], bytes]:
        """Read what the client sent next.

        Returns:
            The names in requests whose heads end in it, and what may be passed on to the server if these are allowed:
            nothing while a head is incomplete.

        Raises:
            Unnamed: A request names no host, or not in a way that leaves no doubt; or this is not HTTP/1.
        """
        self._names.clear()
        self._held += data
        self._quiet += len(data)
        self._parse(data)
        if self._in_head:
            ready = b""
        else:
            ready = bytes(self._held)
            self._held.clear()
        # The parser keeps names and values of headers, trailers too, for as long as they go on.
        if self._quiet > MOST:
            raise Unnamed(f"the head of a request of more than {MOST // 1024} KiB")
        return frozenset(self._names), ready

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            # The server may refuse to upgrade and read on, so what follows must be requests as well.
            self._parser = HttpRequestParser(self)
            self._upgraded = True
            rest = data[int(upgrade.args[0]) :]
            if self._failure is None and rest:
                self._parse(rest)
        except HttpParserError as error:
            if self._failure is None:
                raise Unnamed(self._kind()) from error
        if self._failure is not None:
            raise self._failure

    def _kind(self) -> str:
        """Say what it is that cannot be parsed."""
        if bytes(self._held[: len(_HTTP_2)]) == _HTTP_2:
            return "HTTP/2 without TLS"
        if self._upgraded:
            return "another protocol after a request to upgrade, such as WebSocket, without TLS"
        return "no request of HTTP/1"

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser, as all that follow."""
        self._in_head = True
        self._url = b""
        self._headers.clear()

    def on_url(self, url: bytes) -> None:
        """Note a part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; trailers are of no interest."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Find the name that the request is for."""
        self._in_head = False
        self._quiet = 0
        try:
            self._names |= self._announced()
        except Unnamed as failure:
            self._failure = failure

    def on_body(self, _body: bytes) -> None:
        """Note that a body goes on."""
        self._quiet = 0

    def on_message_complete(self) -> None:
        """Note that a request ended."""
        self._quiet = 0

    def _announced(self) -> set[str]:
        known = {name for name, _ in self._headers}
        if self._parser.get_method() == b"CONNECT":
            raise Unnamed("the method CONNECT")
        if b"transfer-encoding" in known and self._parser.get_http_version() != "1.1":
            raise Unnamed("Transfer-Encoding in a request of HTTP/1.0")
        if b"upgrade" in known and known & {b"content-length", b"transfer-encoding"}:
            raise Unnamed("Upgrade in a request with a body")
        hosts = [value for name, value in self._headers if name == b"host"]
        if len(hosts) != 1:
            raise Unnamed("a request with more than one Host" if hosts else "a request without Host")
        names = {authority(hosts[0])}
        if absolute := _ABSOLUTE.match(self._url):
            names.add(authority(absolute[1]))
        elif self._url[:1] not in {b"/", b"*"}:
            raise Unnamed("a request for something that is no URL")
        return names
