"""The check of the names that a program announces on a connection, to its last byte."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import ByteStream

from .announced import MOST, Unnamed, is_tls, server_name
from .http_requests import HttpRequests
from .opening import Kind, Opening

MOST_NAMES = 64


class NameCheck:
    """Holds bytes back until the names in them are known and allowed.

    A TLS connection announces one name; over HTTP/1 each request announces its own. TLS is told from HTTP by the first
    byte and not by the port, so neither can stand in for the other.

    Attributes:
        names: All that were announced.

    Args:
        judge: Called for each new name; raises whatever refuses it.
        needed: Whether something that announces no name is refused; if not, what is neither TLS nor HTTP passes.
    """

    def __init__(self, judge: Callable[[str], None], *, needed: bool = True) -> None:
        self.names: set[str] = set()
        self._judge = judge
        self._opening = None if needed else Opening()
        self._free = False
        self._hello: bytearray | None = None
        self._requests: HttpRequests | None = None

    async def first(self, guest: ByteStream, *, within_s: float) -> bytes:
        """Receive until a name is known and allowed.

        Returns:
            What may be passed on to the server; nothing if the program has gone without a word.

        Raises:
            Unnamed: No name is announced in time, or not in a way that leaves no doubt.
        """
        received = False
        try:
            with anyio.fail_after(within_s):
                while True:
                    data = await guest.receive(MOST)
                    received = True
                    if ready := self.feed(data):
                        return ready
        except TimeoutError:
            raise Unnamed(f"none within {within_s:g} s") from None
        except anyio.EndOfStream:
            if received:
                raise Unnamed("none before its end") from None
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return b""

    def feed(self, data: bytes) -> bytes:
        """Read what the program sent next.

        Returns:
            What may be passed on to the server: nothing while a name is incomplete. Where the program has sent
            everything, which is told by no data, what was held because it might have become a name.

        Raises:
            Unnamed: No name is announced, or not in a way that leaves no doubt.
        """
        if not data:
            return self._unfinished()
        if self._requests is not None:
            return self._request(self._requests, data)
        if self._hello is not None:
            return self._greeting(self._hello, data)
        if self._opening is not None:
            return self._opened(self._opening, data)
        if self.names or self._free:
            return data  # in TLS, all that follows the name is encrypted
        if is_tls(data):
            self._hello = bytearray()
        else:
            self._requests = HttpRequests()
        return self.feed(data)

    def _opened(self, opening: Opening, data: bytes) -> bytes:
        kind, ready = opening.feed(data)
        if kind is None:
            return ready
        self._opening = None
        self._free = kind is Kind.OTHER
        return ready + self.feed(bytes(opening.held))

    def _unfinished(self) -> bytes:
        held = b"" if self._opening is None else bytes(self._opening.held)
        self._opening, self._free = None, True
        return held

    def _greeting(self, hello: bytearray, data: bytes) -> bytes:
        hello += data
        name = server_name(bytes(hello))
        if name is None:
            return b""
        self._note(name)
        self._hello = None
        return bytes(hello)

    def _request(self, requests: HttpRequests, data: bytes) -> bytes:
        names, ready = requests.feed(data)
        for name in sorted(names):
            self._note(name)
        return ready

    def _note(self, name: str) -> None:
        if name in self.names:
            return
        if len(self.names) >= MOST_NAMES:
            raise Unnamed(f"requests for more than {MOST_NAMES} names over one connection")
        self._judge(name)
        self.names.add(name)
