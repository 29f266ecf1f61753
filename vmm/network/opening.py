"""Which protocol a program begins a connection with, where it may be any: TLS, HTTP, or one that announces no name.

Outside the web's ports a program may speak whatever it likes, and may wait for the server to speak first. So only what
could still become TLS or HTTP is held back, and no longer than until that is certain.

Source: RFC 9112, section 2.2 (empty lines before a request) and 3 (request line), RFC 9110, section 5.6.2 (token).
"""

from __future__ import annotations

import re
from enum import Enum, auto

from .announced import MOST, Unnamed

_TLS = b"\x16\x03"
"""A handshake record of any version. No message of another known protocol begins with it."""

# More than the standard has: servers take other whitespace, methods that they do not know, and lower case.
_BLANK = b" \t\r\n\v\f"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_METHOD = re.compile(_TOKEN)
_REQUEST = re.compile(rb"[ \t]HTTP/", re.IGNORECASE)
# Lax servers take control characters in a URL; what is no URL, such as the length in a message of LDAP, ends at one.
_URL = re.compile(rb"[ \t]+(?:/|https?:)", re.IGNORECASE)
_URL_END = re.compile(rb"[\x00\r\n]")
_LINE_END = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OVERLAP = len(b" HTTP/") - 1


class Kind(Enum):
    """What a program speaks."""

    TLS = auto()
    HTTP = auto()
    OTHER = auto()


class Opening:
    """Looks at the first bytes of a program until it is certain what they begin.

    Attributes:
        held: What is held back so far.
    """

    def __init__(self) -> None:
        self.held = bytearray()
        self._target: int = 0
        self._seen: int = 0

    def feed(self, data: bytes) -> tuple[Kind | None, bytes]:
        """Read what the program sent next.

        Returns:
            What it speaks, if that is certain now, and what may be passed on in any case: blanks before a request,
            which begin none themselves.

        Raises:
            Unnamed: What looks like the first line of a request does not end.
        """
        blanks = b""
        if not self.held:
            rest = data.lstrip(_BLANK)
            blanks = data[: len(data) - len(rest)]
            data = rest
        self.held += data
        return (self._kind() if self.held else None), blanks

    def _kind(self) -> Kind | None:
        start = bytes(self.held[: len(_TLS)])
        if _TLS.startswith(start):
            return Kind.TLS if start == _TLS else None
        if not self._target:
            method = _METHOD.match(self.held, max(0, self._seen - 1))
            self._seen = method.end() if method else 0
            if self._seen == len(self.held):
                return Kind.OTHER if self._seen > MOST else None
            if not self._seen or self.held[self._seen] not in b" \t":
                return Kind.OTHER
            self._target = self._seen
        # Each byte is looked at once, however small the pieces are.
        place = max(self._target, self._seen - _OVERLAP)
        ends = _URL_END if _URL.match(self.held, self._target) else _LINE_END
        end = ends.search(self.held, place)
        if _REQUEST.search(self.held, place, end.start() if end else len(self.held)):
            return Kind.HTTP
        if end:
            return Kind.OTHER
        if len(self.held) > MOST:
            raise Unnamed(f"the first line of a request of more than {MOST // 1024} KiB")
        self._seen = len(self.held)
        return None
