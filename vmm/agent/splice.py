"""Carries a TCP connection of the sandbox over a connection to the host: both ways, each with an end of its own."""

from __future__ import annotations

import _thread
import contextlib
import select
import socket
import struct

from . import frames
from .channel import Channel, ClosedError

_PIECE = 64 * 1024
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_LINGER_NOT = struct.pack("ii", 1, 0)


def splice(channel: Channel, sock: socket.socket) -> None:
    """Carry a socket, and close it, until both directions have ended; what the host sends is the request's data.

    Raises:
        ClosedError: One side broke the connection off, so the other one was reset.
    """
    done = _thread.allocate_lock()
    done.acquire()
    try:
        channel.send_raw(frames.pack_json(frames.HEAD, {}))
        _thread.start_new_thread(_outward, (channel, sock, done))
    except BaseException:
        reset(sock)
        raise
    try:
        for piece in channel.body():
            _send(channel, sock, piece)
        sock.shutdown(socket.SHUT_WR)
    except (OSError, ClosedError, frames.FrameError):
        channel.retire()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)  # Wakes the other thread, and tells the sandbox's program nothing yet.
    done.acquire()
    if channel.retired:
        reset(sock)
        raise ClosedError
    sock.close()
    channel.send_result({})


def reset(sock: socket.socket) -> None:
    """Close a socket that no other thread uses, so that the program at its other end gets a reset at once."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    sock.close()


def _send(channel: Channel, sock: socket.socket, piece: bytes) -> None:
    """Send all of a piece, however slowly it is read, unless the host goes away meanwhile."""
    rest = memoryview(piece)
    while rest:
        try:
            rest = rest[sock.send(rest, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            poll.register(channel, _GONE)
            if any(descriptor == channel.fileno() for descriptor, _ in poll.poll()):
                raise ClosedError from None


def _outward(channel: Channel, sock: socket.socket, done: _thread.LockType) -> None:
    frame = bytearray(frames.HEADER.size + _PIECE)
    view = memoryview(frame)
    try:
        while size := sock.recv_into(view[frames.HEADER.size :]):
            channel.send_in_place(frames.DATA, view[: frames.HEADER.size + size])
        channel.send(frames.END, b"")
    except (OSError, ClosedError):
        channel.retire()
    finally:
        done.release()
