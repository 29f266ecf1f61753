"""Runs the web application until a signal comes, and stops it within seconds, whatever its clients hold open."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from starlette.types import ASGIApp

_DRAIN_S = 2
_KEEP_ALIVE_S = 75


class PortRefused(Exception):
    """The address cannot be listened on; the message says the way out."""


class WebServer(uvicorn.Server):
    """Uvicorn without signal handlers of its own: who runs it decides when it ends, with `stop`."""

    def __init__(self, app: ASGIApp, on_started: Callable[[], None], *, trusted_proxies: Sequence[str] = ()) -> None:
        """A server, not started yet.

        Args:
            app: What it serves.
            on_started: Called once it listens.
            trusted_proxies: Addresses and networks whose word about a client's address counts.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="websockets-sansio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
            )
        )
        self._on_started = on_started

    def stop(self, signal_number: int) -> None:
        """Begin to stop; a second interrupt stops without waiting for anybody."""
        self.handle_exit(signal_number, None)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell that it serves."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        PortRefused: The port is taken, or may not be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                reason = "is in use: stop what listens there (another Casemate?)"
            case errno.EACCES | errno.EPERM:
                reason = "may not be used by this user"
            case _:
                reason = f"cannot be used ({error.strerror or error})"
        raise PortRefused(f"Port {port} of {host} {reason}, or set CASEMATE_PORT to another one") from None
    # Connections inherit it: an answer's head and body are two writes, and the second must not wait for the first's
    # acknowledgement. Not every event loop sees to that for a listener that was made elsewhere.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
