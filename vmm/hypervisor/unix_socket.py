"""Unix sockets in machines' directories: made, and reached, however deep they lie.

The server makes a program's control socket and listens on it before the program starts, and the program finds it open.
So the server can connect at once: a program that is slow to start answers when it is up, one that ends hangs up, and
nobody looks again and again whether a file is there. The file stays the server's own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio.abc import UNIXSocketStream

_WAITING = 8
_FULL_S = 0.01


@contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """A socket that listens, for a program to be started in the block. What an earlier one left there is replaced.

    Blocks for as long as a disk does.

    Args:
        path: Its name. Only this process's user can connect.

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


async def connect_unix(path: Path) -> UNIXSocketStream:
    """Connect to a socket, however deep it lies, for a stream over which descriptors can be passed.

    Raises:
        OSError: Nobody listens there, or it is no socket.
    """
    return await UNIXSocketStream.from_socket(await connected(path))


async def connected(path: Path) -> socket.socket:
    """Connect to a socket, however deep it lies. Waits while its queue is full, for QEMU answers one after the other.

    Raises:
        OSError: Nobody listens there, or it is no socket.
    """
    with address(path) as short:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            while not _connected(connection, short):
                # No event tells when there is room; anyio's own way would ask without a pause.
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
    """A short name for an existing socket: an address holds 107 bytes, and data directories may be deeper.

    A program that went bad could have put a link to another machine's socket there: that is not followed.

    Raises:
        OSError: There is no such file.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
