"""The agent's end of one connection to the host: blocking frames over a socket, and the handshake."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import frames
from .refusals import RefusalError, invalid

_HANDSHAKE_SECONDS = 20.0
_HANG_UP = select.POLLIN | select.POLLRDHUP | select.POLLHUP | select.POLLERR


class ClosedError(Exception):
    """The peer closed the connection, or it broke."""


class Channel:
    """Frames over one connected socket, for one thread; only `retire` may be called from another.

    Attributes:
        retired: Whether the agent itself ended this connection because it has a new identity; the peer did not close.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._body = False
        self.retired = False
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def fileno(self) -> int:
        """Return the descriptor for poll: during an operation the peer sends nothing, so any event means it is gone."""
        return self._socket.fileno()

    def authenticate(self, get_secret: Callable[[], bytes]) -> bool:
        """Run the handshake; return False if the peer does not know the secret.

        Args:
            get_secret: Called after the peer's proof has arrived, since the secret may change until then.
        """
        self._socket.settimeout(_HANDSHAKE_SECONDS)
        nonce = os.urandom(frames.NONCE)
        self._socket.sendall(frames.pack(frames.HELLO, bytes((frames.VERSION,)) + nonce))
        kind, payload = self.receive(most=frames.NONCE + frames.PROOF_SIZE)
        if kind != frames.AUTH or len(payload) != frames.NONCE + frames.PROOF_SIZE:
            raise frames.FrameError("expected AUTH")
        host_nonce, proof = payload[: frames.NONCE], payload[frames.NONCE :]
        secret = get_secret()
        if not frames.same(proof, frames.host_proof(secret, nonce, host_nonce)):
            return False
        self._socket.sendall(frames.pack(frames.PROOF, frames.agent_proof(secret, nonce, host_nonce)))
        self._socket.settimeout(None)
        return True

    def receive(self, *, most: int = frames.MAX_JSON) -> tuple[int, bytes]:
        """Receive the next frame, of at most `most` bytes.

        Raises:
            ClosedError: The connection is closed.
            FrameError: The data is not a valid frame, or the frame is longer.
        """
        buffer = self._buffer
        self._fill(frames.HEADER.size)
        kind, length = frames.unpack_header(buffer)
        if length > most:
            raise frames.FrameError(f"frame of kind {kind} has {length} bytes, the limit here is {most}")
        end = frames.HEADER.size + length
        self._fill(end)
        payload = bytes(buffer[frames.HEADER.size : end])
        del buffer[:end]
        return kind, payload

    def request(self) -> dict[str, Any]:
        """Receive the next operation's name and arguments."""
        kind, payload = self.receive()
        if kind != frames.REQUEST:
            raise frames.FrameError(f"expected REQUEST, got kind {kind}")
        values = frames.unpack_json(payload)
        self._body = values.pop("data", False) is True
        return values

    def body(self) -> Iterator[bytes]:
        """Yield the request's data in pieces; the caller must read it to the end."""
        while self._body:
            kind, payload = self.receive()
            if kind == frames.END:
                self._body = False
            elif kind == frames.DATA:
                yield payload
            else:
                raise frames.FrameError(f"expected DATA or END, got kind {kind}")

    def whole_body(self, limit: int) -> bytes:
        """Return the request's data in one piece of at most `limit` bytes."""
        whole = bytearray()
        for piece in self.body():
            whole += piece
            if len(whole) > limit:
                raise invalid(f"data must be at most {limit} bytes")
        return bytes(whole)

    def skip_body(self) -> None:
        """Discard the rest of the request's data."""
        for _ in self.body():
            pass

    def send(self, kind: int, payload: bytes) -> None:
        """Send one frame."""
        self._sendall(frames.pack(kind, payload))

    def send_raw(self, data: bytes | bytearray) -> None:
        """Send one or more packed frames."""
        self._sendall(data)

    def send_in_place(self, kind: int, frame: memoryview) -> None:
        """Send one frame whose payload is in `frame`, after room for the header."""
        frames.HEADER.pack_into(frame, 0, kind, len(frame) - frames.HEADER.size)
        self._sendall(frame)

    def send_result(self, value: dict[str, Any], data: Iterable[bytes] = ()) -> None:
        """Answer the request in one write: the data, then the result that describes it."""
        reply = bytearray()
        for piece in data:
            for start in range(0, len(piece), frames.MAX_DATA):
                reply += frames.pack(frames.DATA, piece[start : start + frames.MAX_DATA])
        reply += frames.pack_json(frames.RESULT, value)
        self._sendall(reply)

    def send_error(self, refusal: RefusalError) -> None:
        """Answer the request with a refusal."""
        self._sendall(frames.pack_json(frames.ERROR, {"code": refusal.code, "message": refusal.message}))

    def gone(self) -> bool:
        """Return whether the peer has closed the connection."""
        poll = select.poll()
        poll.register(self._socket, _HANG_UP)
        return bool(poll.poll(0))

    def retire(self) -> None:
        """End the connection from another thread, which wakes the thread that waits on it."""
        self.retired = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # Already disconnected.

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _fill(self, size: int) -> None:
        buffer = self._buffer
        while len(buffer) < size:
            try:
                piece = self._socket.recv(max(65536, size - len(buffer)))
            except OSError as error:
                raise ClosedError from error
            if not piece:
                raise ClosedError
            buffer += piece

    def _sendall(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ClosedError from error
