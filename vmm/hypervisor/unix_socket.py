"""Unix sockets in machines' directories: created and reached at any depth.

The server creates a program's control socket and listens on it before the program starts, and the program gets it open.
So the server can connect at once: a program that is slow to start answers when it is ready, one that ends hangs up, and
nobody has to poll for the file. The file belongs to the server.
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
    """Open a listening socket, for a program to be started in the block; replaces one that an earlier program left.

    Blocks on the disk.

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
    """Connect to a socket at any depth, for a stream over which descriptors can be passed.

    Raises:
        OSError: Nobody listens there, or it is not a socket.
    """
    return await UNIXSocketStream.from_socket(await connected(path))


async def connected(path: Path) -> socket.socket:
    """Connect to a socket at any depth. Waits while its queue is full, because QEMU answers one client at a time.

    Raises:
        OSError: Nobody listens there, or it is not a socket.
    """
    with address(path) as short:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            while not _connected(connection, short):
                # No event says when the queue has a free place; anyio's own way would poll without a pause.
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
    """Give an existing socket a short name: an address holds 107 bytes, and data directories may be deeper.

    Does not follow a link, which a compromised program could have pointed at another machine's socket.

    Raises:
        OSError: There is no such file.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
