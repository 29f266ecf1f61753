"""Unix sockets in machines' directories, with paths of any length.

The server creates a program's control socket, listens on it, and passes it to the program. So the server can connect at
once, without polling for the file: a program that is slow to start answers when it is ready, and one that ends closes
the connection. The server owns the file.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

_WAITING = 8
_FULL_S = 0.01


@contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """Open a listening socket for a program that is started in the block; replaces that of an earlier program.

    Blocks on the disk.

    Args:
        path: Its path. Only this process's user can connect.

    Raises:
        OSError: It cannot be made.
    """
    path.unlink(missing_ok=True)
    place = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"/proc/self/fd/{place}/{path.name}")
            path.chmod(0o600)
            listener.listen(_WAITING)
            yield listener
    finally:
        os.close(place)


class UnixStream(ByteStream):
    """A connection over which descriptors can be passed.

    anyio has one, too, but if its `receive` is cancelled in the moment that data arrives, the event loop meets an error
    (InvalidStateError) that belongs to nobody.

    Args:
        connection: Its socket, connected and not blocking; closed with the stream.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what has come.

        Raises:
            EndOfStream: The peer has closed the connection.
            BrokenResourceError: It broke.
        """
        await checkpoint()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            return data

    async def send(self, item: bytes) -> None:
        """Send all of it.

        Raises:
            BrokenResourceError: The connection broke.
        """
        await self.send_fds(item, ())

    async def send_fds(self, item: bytes, descriptors: Sequence[int]) -> None:
        """Send all of it, and the descriptors with its first byte.

        Raises:
            BrokenResourceError: The connection broke.
        """
        await checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[socket.send_fds(self._socket, [rest], descriptors) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                descriptors = ()

    async def send_eof(self) -> None:
        """End this direction; the other goes on."""
        self._socket.shutdown(socket.SHUT_WR)
        await checkpoint()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._socket.fileno() != -1:
            anyio.notify_closing(self._socket)
            self._socket.close()
        await checkpoint()


async def connect_unix(path: Path) -> UnixStream:
    """Connect to a socket, whatever its path's length, for a stream over which descriptors can be passed.

    Raises:
        OSError: Nobody listens there, or it is not a socket.
    """
    return UnixStream(await connected(path))


async def connected(path: Path) -> socket.socket:
    """Connect to a socket, whatever its path's length. Waits while its queue is full: QEMU serves one client at a time.

    Raises:
        OSError: Nobody listens there, or it is not a socket.
    """
    with address(path) as short:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            while not _connected(connection, short):
                # No event signals space in the queue, and anyio's connect would poll without a pause.
                await anyio.sleep(_FULL_S)
        except BaseException:
            connection.close()
            raise
        return connection


def _connected(connection: socket.socket, name: str) -> bool:
    try:
        connection.connect(name)
    except BlockingIOError:
        return False
    return True


@contextmanager
def address(path: Path) -> Generator[str]:
    """Give an existing socket a short path: an address holds 107 bytes, and data directories may have longer paths.

    Does not follow a link, which a compromised program could have pointed at another machine's socket.

    Raises:
        OSError: There is no such file.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
