"""TCP connections of the server to the world, which hold no bytes of their own.

The event loop's transports read ahead up to 256 KiB for each connection, and a guest decides how many connections
wait. Here, what nobody takes stays in the kernel, whose buffers are bounded and not the server's memory.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from struct import pack
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

Connect = Callable[[IPv4Address, int], Awaitable[ByteStream]]

PIECE = 64 * 1024
"""Bytes that are received at once."""

# A peer that vanished is noticed after about two minutes, as nothing else limits a silent connection.
_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class TcpStream(ByteStream):
    """One connection.

    Args:
        connected: Its socket, connected and not blocking; closed with the stream.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Give the socket."""
        return {SocketAttribute.raw_socket: lambda: self._socket}

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        """Receive what has come.

        Raises:
            EndOfStream: The peer has sent everything.
            BrokenResourceError: The connection was reset.
        """
        await checkpoint()  # bytes that never run out would keep the event loop from everything else
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise _lost(self._socket) from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """Send all of it.

        Raises:
            BrokenResourceError: The connection was reset.
        """
        await checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise _lost(self._socket) from error

    async def send_eof(self) -> None:
        """End this direction; the other goes on."""
        await checkpoint()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _lost(self._socket) from error

    async def aclose(self) -> None:
        """Close both directions; what was sent still arrives."""
        if self._socket.fileno() != -1:
            anyio.notify_closing(self._socket)
            self._socket.close()
        await checkpoint()


async def dial(address: IPv4Address, port: int) -> TcpStream:
    """Connect to a server; the caller sets the deadline.

    Raises:
        OSError: It refused, or there is no way to it.
    """
    dialled = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        prepare(dialled)
        await _connect(dialled, address, port)
    except BaseException:
        dialled.close()
        raise
    return TcpStream(dialled)


def prepare(connection: socket.socket) -> None:
    """Let a connection send at once, and notice a peer that has vanished."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _ALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def _connect(dialled: socket.socket, address: IPv4Address, port: int) -> None:
    code = dialled.connect_ex((str(address), port))
    if code == errno.EINPROGRESS:
        await anyio.wait_writable(dialled)
        code = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def reset(stream: ByteStream) -> None:
    """Close a stream at once, so that the other end sees that something failed, not that all was sent."""
    # anyio's own streams fail to give their socket where it is closed or its peer has gone.
    with suppress(OSError, AttributeError):
        raw = stream.extra(SocketAttribute.raw_socket, None)
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    with anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(stream)


def _lost(connection: socket.socket) -> Exception:
    return anyio.ClosedResourceError() if connection.fileno() == -1 else anyio.BrokenResourceError()
