"""Runs the web application until it is stopped, which takes only seconds even with open connections."""

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
    """The server cannot listen on the address; the message says how to fix it."""


class WebServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the caller ends it with `stop`."""

    def __init__(self, app: ASGIApp, on_started: Callable[[], None], *, trusted_proxies: Sequence[str] = ()) -> None:
        """Create a server without starting it.

        Args:
            app: The application to serve.
            on_started: Called when the server listens.
            trusted_proxies: Addresses and networks of proxies whose X-Forwarded-For is trusted.
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
        """Begin to stop; a second interrupt stops without waiting for connections."""
        self.handle_exit(signal_number, None)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call `on_started`."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        PortRefused: The port is in use, or cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                reason = "is in use, perhaps by another Casemate"
            case errno.EACCES | errno.EPERM:
                reason = "needs privileges that this user lacks"
            case _:
                reason = f"cannot be used ({error.strerror or error})"
        raise PortRefused(f"Port {port} of {host} {reason}: free it, or set CASEMATE_PORT to another port") from None
    # Connections inherit it: an answer's head and body are two writes, and the second must not wait for the first to be
    # acknowledged. Not every event loop sets this for a listener that it did not create.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
