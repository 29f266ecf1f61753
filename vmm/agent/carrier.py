"""Carries TCP connections of the sandbox over connections to the host: those it opened, and those to its servers."""

from __future__ import annotations

import _thread
import socket

from .arguments import Arguments
from .channel import Channel
from .namespaces import Namespaces
from .refusals import CONFLICT, RefusalError, invalid
from .splice import reset, splice

_MOST = 384
"""Fewer than the agent's connections, of which the host's calls need some."""
_CONNECT_S = 10.0
_LOCALHOSTS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Carrier:
    """Carries a bounded number of connections at once.

    Args:
        namespaces: The sandbox's; None if its programs live in the agent's.
    """

    def __init__(self, namespaces: Namespaces | None) -> None:
        self._namespaces = namespaces
        self._lock = _thread.allocate_lock()
        self._open = 0

    def connect(self, channel: Channel, arguments: Arguments) -> None:
        """Connect to a server on the sandbox's localhost, and carry that connection."""
        port = arguments.integer("port", least=1)
        if port > 65535:
            raise invalid(f"port must be 1 to 65535, got {port}")
        self.carry(channel, self._connected(port))

    def carry(self, channel: Channel, sock: socket.socket) -> None:
        """Carry a connection until it ends."""
        with self._lock:
            full = self._open >= _MOST
            self._open += not full
        if full:
            reset(sock)
            raise RefusalError(CONFLICT, f"{_MOST} connections of the sandbox are open; close some")
        try:
            splice(channel, sock)
        finally:
            with self._lock:
                self._open -= 1

    def _connected(self, port: int) -> socket.socket:
        for family, address in _LOCALHOSTS:
            sock = self._socket(family)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(_CONNECT_S)
                sock.connect((address, port))
                sock.settimeout(None)
            except (ConnectionRefusedError, TimeoutError):
                sock.close()
            except OSError:
                sock.close()
                raise
            else:
                return sock
        raise RefusalError(CONFLICT, f"nothing listens on port {port} in the sandbox; start the server first")

    def _socket(self, family: int) -> socket.socket:
        """Make a socket in the sandbox's network."""
        if self._namespaces is None:
            return socket.socket(family, socket.SOCK_STREAM)
        with self._namespaces.network():
            return socket.socket(family, socket.SOCK_STREAM)
