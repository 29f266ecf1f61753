"""A WebSocket of a client, connected to one of a server in a sandbox: messages, subprotocol and close codes."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import SEND_EOF
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from vmm.errors import CasemateError

from .answers import ClientLeft, GuestFailed, failure_of
from .headers import from_guest, to_guest
from .proxy import HEAD_S, SLICE

if TYPE_CHECKING:
    from anyio.abc import ByteStream
    from starlette.types import Message, Receive, Scope, Send
    from websockets.protocol import Event

    from .names import Place

MOST = 16 * 1024 * 1024
"""Bytes of a message, as for clients."""

_PIECE = 64 * 1024
_NORMAL, _NO_CODE, _LOST, _INVALID, _INTERNAL_ERROR = 1000, 1005, 1006, 1007, 1011
_UNSENDABLE = frozenset({_NO_CODE, _LOST, 1015})
_HANDSHAKE = (b"upgrade", b"connection", b"content-length")
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, CasemateError)
_quiet = logging.getLogger("casemate.ports.websocket")
_quiet.setLevel(logging.WARNING)


class SocketExchange:
    """One WebSocket, over a connection of its own. The client's `websocket.connect` was received already.

    Args:
        stream: The connection to the server.
        place: The port, and the path as the server knows it.
        head_s: How long to wait for the answer to the handshake.
    """

    def __init__(self, stream: ByteStream, place: Place, *, head_s: float = HEAD_S) -> None:
        self._stream = stream
        self._place = place
        self._head_s = head_s
        self._lock = anyio.Lock()
        self._early: list[Event] = []
        self._unread = b""
        self._message_so_far = bytearray()
        self._is_text = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Connect both sides until one of them closes.

        Raises:
            GuestFailed: The server did not answer, or not with a WebSocket; the handshake is not answered yet.
        """
        wire = self._wire(scope)
        try:
            with anyio.fail_after(self._head_s):
                response = await self._handshake(wire, scope)
        except TimeoutError:
            raise self._failed(504, f"did not answer within {self._head_s:g} s") from None
        if not await self._accept(wire, response, send):
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._from_client, wire, receive, tasks.cancel_scope)
            with suppress(ClientLeft):
                await self._from_guest(wire, send)
            tasks.cancel_scope.cancel()

    def _wire(self, scope: Scope) -> ClientProtocol:
        query: bytes = scope.get("query_string", b"")
        uri = WebSocketURI(
            secure=False,
            host="localhost",
            port=self._place.port,
            path=(self._place.path or b"/").decode("latin-1"),
            query=query.decode("latin-1"),
        )
        subprotocols = [Subprotocol(name) for name in scope.get("subprotocols", ())]
        return ClientProtocol(uri, subprotocols=subprotocols or None, max_size=MOST, logger=_quiet)

    async def _handshake(self, wire: ClientProtocol, scope: Scope) -> Response:
        request = wire.connect()
        del request.headers["Host"]
        for name, value in to_guest(scope, self._place):
            if name not in _HANDSHAKE:
                request.headers[name.decode("latin-1")] = value.decode("latin-1")
        wire.send_request(request)
        try:
            await self._flush(wire)
            while True:
                if events := wire.events_received():
                    # Frames that came with it are the first messages.
                    response, *self._early = events
                    assert isinstance(response, Response)
                    return response
                if wire.handshake_exc is not None:
                    raise self._failed(502, f"did not answer with valid HTTP: {wire.handshake_exc}")
                await self._feed(wire)
        except CasemateError as error:
            raise failure_of(error, self._place.port) from None
        except _BROKEN:
            raise self._failed(502, "closed the connection") from None

    async def _accept(self, wire: ClientProtocol, response: Response, send: Send) -> bool:
        """Answer the client's handshake as the server did; returns whether it was accepted."""
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.raw_items()]
        headers = [pair for pair in from_guest(raw, self._place) if pair[0] not in _HANDSHAKE]
        if wire.handshake_exc is None:
            await send({"type": "websocket.accept", "subprotocol": wire.subprotocol, "headers": headers})
            return True
        if not isinstance(wire.handshake_exc, InvalidStatus) or response.status_code < 200:
            raise self._failed(502, f"did not accept the WebSocket as the protocol demands: {wire.handshake_exc}")
        body = bytes(response.body or b"")
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
        return False

    async def _from_client(self, wire: ClientProtocol, receive: Receive, whole: anyio.CancelScope) -> None:
        try:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    break
                text: str | None = message.get("text")
                if text is None:
                    wire.send_binary(message.get("bytes") or b"")
                else:
                    wire.send_text(text.encode())
                await self._flush(wire)
            code: int = message.get("code", _NO_CODE)
            if code in _UNSENDABLE:
                wire.send_close()
            else:
                wire.send_close(code, message.get("reason") or "")
            await self._flush(wire)
        except (*_BROKEN, WebSocketException):
            return  # What was received before is still passed on.
        except TimeoutError:
            pass  # Nobody would notice any more that the client leaves.
        whole.cancel()

    async def _from_guest(self, wire: ClientProtocol, send: Send) -> None:
        """Pass messages on until the server closes, then close with its code."""
        try:
            while True:
                events, self._early = [*self._early, *wire.events_received()], []
                for event in events:
                    if isinstance(event, Frame) and (message := self._message(event)) is not None:
                        await send(message)
                if wire.close_rcvd is not None or wire.parser_exc is not None:
                    break
                await self._feed(wire)
        except UnicodeDecodeError:
            await send({"type": "websocket.close", "code": _INVALID, "reason": "text that is not UTF-8"})
            return
        except _BROKEN:
            pass
        closed = wire.close_rcvd or wire.close_sent
        if closed is None:
            code, reason = _INTERNAL_ERROR, "the server in the sandbox broke the connection"
        else:
            code, reason = _NORMAL if closed.code in _UNSENDABLE else closed.code, closed.reason
        await send({"type": "websocket.close", "code": code, "reason": reason})

    def _message(self, frame: Frame) -> Message | None:
        """Return the message that a frame completes; None if it completes none."""
        if frame.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            return None
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._message_so_far += frame.data
        if not frame.fin:
            return None
        data, self._message_so_far = bytes(self._message_so_far), bytearray()
        return {"type": "websocket.send"} | ({"text": data.decode()} if self._is_text else {"bytes": data})

    async def _feed(self, wire: ClientProtocol) -> None:
        try:
            if self._unread:
                await anyio.lowlevel.checkpoint()
            else:
                self._unread = await self._stream.receive(_PIECE)
            # Thousands of tiny frames at once would stall everybody else.
            piece, self._unread = self._unread[:SLICE], self._unread[SLICE:]
            wire.receive_data(piece)
        except anyio.EndOfStream:
            wire.receive_eof()
        await self._flush(wire)

    async def _flush(self, wire: ClientProtocol) -> None:
        """Send what is to be sent.

        Raises:
            TimeoutError: The server does not read.
        """
        async with self._lock:
            pieces = wire.data_to_send()
            with anyio.fail_after(self._head_s):
                if data := b"".join(pieces):
                    await self._stream.send(data)
                if SEND_EOF in pieces:
                    await self._stream.send_eof()

    def _failed(self, status: int, what: str) -> GuestFailed:
        return GuestFailed(status, f"The server on port {self._place.port} of the sandbox {what}")
