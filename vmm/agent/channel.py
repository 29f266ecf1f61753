"""One connection to the host, seen from the agent: blocking frames over a socket, and the handshake."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import frames
from .refusals import RefusalError, invalid

_HANDSHAKE_SECONDS = 20.0
_DEAD = select.POLLIN | select.POLLRDHUP | select.POLLHUP | select.POLLERR


class ClosedError(Exception):
    """The peer has gone."""


class Channel:
    """Frames over one connected socket; used by one thread, except for `retire`.

    Attributes:
        retired: The agent itself ended this connection (it has a new identity): not the wish of who used it.
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
        """For poll: any event means that the peer has gone, since it has nothing to say during an operation."""
        return self._socket.fileno()

    def authenticate(self, look_up: Callable[[], bytes]) -> bool:
        """Run the handshake. False: the peer does not know the secret."""
        self._socket.settimeout(_HANDSHAKE_SECONDS)
        nonce = os.urandom(frames.NONCE)
        self._socket.sendall(frames.pack(frames.HELLO, bytes((frames.VERSION,)) + nonce))
        kind, payload = self.receive(most=frames.NONCE + frames.PROOF_SIZE)
        if kind != frames.AUTH or len(payload) != frames.NONCE + frames.PROOF_SIZE:
            raise frames.FrameError("expected AUTH")
        host_nonce, proof = payload[: frames.NONCE], payload[frames.NONCE :]
        secret = look_up()
        if not frames.same(proof, frames.host_proof(secret, nonce, host_nonce)):
            return False
        self._socket.sendall(frames.pack(frames.PROOF, frames.agent_proof(secret, nonce, host_nonce)))
        self._socket.settimeout(None)
        return True

    def receive(self, *, most: int = frames.MAX_JSON) -> tuple[int, bytes]:
        """The next frame, of at most `most` bytes.

        Raises:
            ClosedError: The peer has gone.
            FrameError: What came is no frame, or a longer one.
        """
        buffer = self._buffer
        self._fill(frames.HEADER.size)
        kind, length = frames.unpack_header(buffer)
        if length > most:
            raise frames.FrameError(f"a frame of {length} bytes comes too early")
        end = frames.HEADER.size + length
        self._fill(end)
        payload = bytes(buffer[frames.HEADER.size : end])
        del buffer[:end]
        return kind, payload

    def request(self) -> dict[str, Any]:
        """The next operation's name and arguments."""
        kind, payload = self.receive()
        if kind != frames.REQUEST:
            raise frames.FrameError(f"expected a request, not kind {kind}")
        values = frames.unpack_json(payload)
        self._body = values.pop("data", False) is True
        return values

    def body(self) -> Iterator[bytes]:
        """The data that comes with the request, to be read up to the end."""
        while self._body:
            kind, payload = self.receive()
            if kind == frames.END:
                self._body = False
            elif kind == frames.DATA:
                yield payload
            else:
                raise frames.FrameError(f"expected data, not kind {kind}")

    def whole_body(self, limit: int) -> bytes:
        """The data that comes with the request, in one piece of at most `limit` bytes."""
        whole = bytearray()
        for piece in self.body():
            whole += piece
            if len(whole) > limit:
                raise invalid(f"data: more than {limit} bytes")
        return bytes(whole)

    def skip_body(self) -> None:
        """Read what is left of the request's data and forget it."""
        for _ in self.body():
            pass

    def send(self, kind: int, payload: bytes) -> None:
        """Send one frame."""
        self._sendall(frames.pack(kind, payload))

    def send_raw(self, data: bytes | bytearray) -> None:
        """Send frames that are packed already."""
        self._sendall(data)

    def send_in_place(self, kind: int, frame: memoryview) -> None:
        """Send one frame whose payload lies in `frame` after room for the header."""
        frames.HEADER.pack_into(frame, 0, kind, len(frame) - frames.HEADER.size)
        self._sendall(frame)

    def send_result(self, value: dict[str, Any], data: Iterable[bytes] = ()) -> None:
        """Answer the request: data first, then the result that says how to read it; in one piece."""
        reply = bytearray()
        for piece in data:
            for start in range(0, len(piece), frames.MAX_DATA):
                reply += frames.pack(frames.DATA, piece[start : start + frames.MAX_DATA])
        reply += frames.pack_json(frames.RESULT, value)
        self._sendall(reply)

    def send_error(self, refusal: RefusalError) -> None:
        """Answer the request with why not."""
        self._sendall(frames.pack_json(frames.ERROR, {"code": refusal.code, "message": refusal.message}))

    def gone(self) -> bool:
        """Whether the peer has closed the connection."""
        poll = select.poll()
        poll.register(self._socket, _DEAD)
        return bool(poll.poll(0))

    def retire(self) -> None:
        """End the connection from another thread: whoever waits on it wakes."""
        self.retired = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # It was not connected any more, which is what is wanted.

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
