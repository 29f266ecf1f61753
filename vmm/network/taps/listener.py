"""Takes the TCP connections and DNS queries of sandboxes with a tap, which the kernel redirects to the gateway.

Which sandbox something comes from is told by its source address: the kernel drops what a sandbox sends with another.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

import anyio
import structlog
from anyio.lowlevel import checkpoint

from ...errors import Unavailable
from ...repeated_warnings import RepeatedWarnings
from ..tcp import TcpStream, prepare, reset
from .tap_way import TapWay

log = structlog.get_logger(__name__)

Find = Callable[[IPv4Address], TapWay | None]

_IP_FREEBIND = 15
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; its answer is a sockaddr_in
_ENDPOINT = struct.Struct("!2xH4s8x")
_SO_RCVBUFFORCE = 33
_BACKLOG = 1024
_WAITING = 4 * 1024 * 1024
"""Bytes of queries that wait: those of one sandbox that floods must not take the place of the others'."""
_LONGEST_QUERY = 4096
_BREATH_S = 0.1
_ATTEMPTS = 16


class Listener:
    """A TCP listener and a UDP socket at the gateway's address; closed at the end of a block.

    Attributes:
        ports: That of TCP and that of UDP, which are the same number: DNS over TCP may be redirected to either.

    Args:
        tcp: Listens; not blocking; closed with the listener.
        udp: The same.
    """

    def __init__(self, tcp: socket.socket, udp: socket.socket) -> None:
        self.ports: tuple[int, int] = (tcp.getsockname()[1], udp.getsockname()[1])
        self._tcp = tcp
        self._udp = udp
        self._own: tuple[str, int] = tcp.getsockname()
        self._warnings = RepeatedWarnings()

    @classmethod
    def open(cls, address: IPv4Address) -> Self:
        """Listen at the gateway's address, which the host need not have yet.

        Raises:
            Unavailable: The host refuses it.
        """
        try:
            return cls(*_opened(address))
        except OSError as error:
            raise Unavailable(f"The server cannot listen at {address}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; may be repeated."""
        for opened in (self._tcp, self._udp):
            if opened.fileno() != -1:
                anyio.notify_closing(opened)
                opened.close()

    async def serve(self, find: Find) -> None:
        """Hand what comes to the sandboxes' ways until cancelled.

        Args:
            find: Finds a sandbox's way by its address.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._accept, find)
            tasks.start_soon(self._receive, find)

    async def _accept(self, find: Find) -> None:
        while True:
            await checkpoint()  # connections that never run out would keep the event loop from everything else
            try:
                accepted, source = self._tcp.accept()
            except BlockingIOError:
                await anyio.wait_readable(self._tcp)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # above all too many open files: those that wait in the queue are served later
                self._warnings.raised(error, "connections of sandboxes not accepted")
                await anyio.sleep(_BREATH_S)
            else:
                self._warnings.settled("connections of sandboxes not accepted")
                await self._hand_over(accepted, IPv4Address(source[0]), find)

    async def _hand_over(self, accepted: socket.socket, source: IPv4Address, find: Find) -> None:
        accepted.setblocking(False)
        way, stream = find(source), TcpStream(accepted)
        try:
            prepare(accepted)
            address, port = _original(accepted)
        except OSError:  # it was reset meanwhile
            await reset(stream)
            return
        # Without redirection, its destination is this listener.
        if way is None or (str(address), port) == self._own:
            await reset(stream)
        else:
            await way.connected(stream, address, port)

    async def _receive(self, find: Find) -> None:
        while True:
            await checkpoint()
            try:
                query, source = self._udp.recvfrom(_LONGEST_QUERY + 1)
            except BlockingIOError:
                await anyio.wait_readable(self._udp)
            except OSError as error:
                self._warnings.raised(error, "queries of sandboxes not received")
                await anyio.sleep(_BREATH_S)
            else:
                self._warnings.settled("queries of sandboxes not received")
                way = find(IPv4Address(source[0]))
                if way is not None and len(query) <= _LONGEST_QUERY:
                    way.asked(query, lambda answer, asker=source: self._reply(answer, asker))

    def _reply(self, answer: bytes, asker: tuple[str, int]) -> None:
        """Answer from the socket that was asked: so the kernel can give it the address that the program asked."""
        try:
            self._udp.sendto(answer, asker)
        except OSError as error:  # its program asks again, if it is still there
            log.debug("query of a sandbox not answered", asker=asker[0], reason=error.strerror)


def _opened(address: IPv4Address) -> tuple[socket.socket, socket.socket]:
    """Open both at one port that the kernel chooses."""
    for attempt in range(_ATTEMPTS):
        with ExitStack() as stack:
            tcp = stack.enter_context(_socket(socket.SOCK_STREAM))
            tcp.bind((str(address), 0))
            tcp.listen(_BACKLOG)
            udp = stack.enter_context(_socket(socket.SOCK_DGRAM))
            with suppress(PermissionError):  # beyond the usual limit only with CAP_NET_ADMIN
                udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WAITING)
            try:
                udp.bind((str(address), tcp.getsockname()[1]))
            except OSError as error:  # another program may have that port for UDP
                if error.errno != errno.EADDRINUSE or attempt + 1 == _ATTEMPTS:
                    raise
                continue
            stack.pop_all()
            return tcp, udp
    raise AssertionError  # unreachable: the last attempt either returns or raises


def _socket(kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    return made


def _original(accepted: socket.socket) -> tuple[IPv4Address, int]:
    """Return where a redirected connection was to go.

    Raises:
        OSError: The kernel does not know the connection.
    """
    port, address = _ENDPOINT.unpack(accepted.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, _ENDPOINT.size))
    return IPv4Address(address), port
