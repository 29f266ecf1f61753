"""HTTP/1.1 to a server in a sandbox: bodies of any size stream both ways, with flat memory and without delay."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import h11
import structlog

from vmm.errors import CasemateError

from .answers import ClientLeft, GuestFailed, failure_of
from .headers import from_guest, to_guest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream
    from starlette.types import Receive, Scope, Send

    from .names import Place

HEAD_S = 60.0
"""Seconds that a server may take for the head of its answer, from the last byte in either direction."""

SLICE = 4096
"""Bytes that are parsed without a break: a server may send thousands of tiny chunks or frames at once."""

_PIECE = 64 * 1024
_HEAD_MOST = 64 * 1024
_NO_BODY = frozenset({204, 304})
_LAST_STATUS = 599
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_log = structlog.stdlib.get_logger("casemate.ports")


class Exchange:
    """One request and its answer, over a connection of its own.

    Args:
        stream: The connection to the server.
        place: The port, and the path as the server knows it.
        head_s: How long to wait for the head of the answer.
        sandboxed: Whether a page must not have the origin of the API.
    """

    def __init__(self, stream: ByteStream, place: Place, *, head_s: float = HEAD_S, sandboxed: bool = False) -> None:
        self._stream = stream
        self._place = place
        self._head_s = head_s
        self._sandboxed = sandboxed
        self._unread = b""
        self._wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_MOST)
        self._patience = anyio.CancelScope()
        self._failed: GuestFailed | None = None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and its answer back; ends early if the client leaves.

        Raises:
            GuestFailed: The server did not answer, or not in HTTP; the answer has not begun.
        """
        head = self._request(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._upload, head, receive, tasks.cancel_scope)
            try:
                await self._download(send)
            except GuestFailed as error:
                self._failed = error
            except ClientLeft:
                pass
            tasks.cancel_scope.cancel()
        if self._failed is not None:
            raise self._failed

    def _request(self, scope: Scope) -> bytes:
        query: bytes = scope.get("query_string", b"")
        headers = to_guest(scope, self._place)
        names = {name for name, _ in headers}
        if b"content-length" not in names and any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"]):
            headers.append((b"transfer-encoding", b"chunked"))
        headers.append((b"connection", b"close"))
        target = (self._place.path or b"/") + (b"?" + query if query else b"")
        try:
            request = h11.Request(method=scope["method"], target=target, headers=headers)
            head = self._wire.send(request)
        except h11.LocalProtocolError as error:
            raise GuestFailed(400, f"The request cannot be passed on: {error}") from None
        assert head is not None
        return head

    async def _upload(self, head: bytes, receive: Receive, whole: anyio.CancelScope) -> None:
        """Send the request; afterwards, wait for the client to leave."""
        try:
            await self._send_all(head, receive)
        except TimeoutError:
            # Otherwise nobody would notice that the client leaves.
            port = self._place.port
            self._failed = GuestFailed(504, f"The server on port {port} of the sandbox does not read the request")
        whole.cancel()

    async def _send_all(self, head: bytes, receive: Receive) -> None:
        listens = await self._sent(head)
        more = True
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not more:
                continue
            more = message.get("more_body", False)
            # What a server no longer reads is dropped: its answer may be complete, and says why.
            if listens and message.get("body"):
                listens = await self._sent(self._wire.send(h11.Data(data=message["body"])))
            if listens and not more:
                listens = await self._sent(self._wire.send(h11.EndOfMessage()))

    async def _sent(self, data: bytes | None) -> bool:
        """Send to the server; returns whether it still listens.

        Raises:
            TimeoutError: It does not read.
        """
        try:
            if data:
                with anyio.fail_after(self._head_s):
                    await self._stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, CasemateError):
            return False
        self._patience.deadline = anyio.current_time() + self._head_s
        return True

    async def _download(self, send: Send) -> None:
        self._patience.deadline = anyio.current_time() + self._head_s
        head: h11.Response | None = None
        with self._patience:
            head = await self._head()
        if head is None:
            raise GuestFailed(
                504, f"The server on port {self._place.port} of the sandbox did not answer within {self._head_s:g} s"
            )
        headers = from_guest(head.headers, self._place, sandboxed=self._sandboxed)
        chunked = any(name == b"transfer-encoding" for name, _ in head.headers)
        if chunked or head.status_code in _NO_BODY:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        await send({"type": "http.response.start", "status": head.status_code, "headers": headers})
        try:
            async for piece in self._body():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except GuestFailed as error:
            # The status is sent already: an answer that breaks off shows the client that it is incomplete.
            _log.info("answer of a sandbox broke off", port=self._place.port, reason=error.text)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _head(self) -> h11.Response:
        while not isinstance(event := self._event(), h11.Response):
            if event is h11.NEED_DATA:
                await self._read()
        if event.status_code > _LAST_STATUS or any(_CONTROL.search(value) for _, value in event.headers):
            raise self._bad("did not answer with valid HTTP: its status or a header cannot be passed on")
        return event

    async def _body(self) -> AsyncGenerator[bytes]:
        """Return the body's pieces, as they arrive; tiny chunks that arrive together are one piece."""
        piece = bytearray()
        while not isinstance(event := self._event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                piece += event.data
            elif event is h11.NEED_DATA:
                if piece and not self._unread:
                    yield bytes(piece)
                    piece.clear()
                await self._read()
        if piece:
            yield bytes(piece)

    def _event(self) -> h11.Event | type[h11.NEED_DATA]:
        """Return the next event of the answer.

        Raises:
            GuestFailed: The server's bytes are not HTTP, or end too early.
        """
        try:
            event = self._wire.next_event()
        except h11.RemoteProtocolError as error:
            raise self._bad(f"did not answer with valid HTTP: {error}") from None
        if event is h11.NEED_DATA or (isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed)):
            return event
        raise self._bad("closed the connection")

    async def _read(self) -> None:
        """Give the parser what the server sends next; nothing at the end.

        Raises:
            GuestFailed: The way to the server failed.
        """
        if self._unread:
            await anyio.lowlevel.checkpoint()
        else:
            try:
                self._unread = await self._stream.receive(_PIECE)
            except anyio.EndOfStream:
                self._wire.receive_data(b"")
                return
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                # Not the end: an answer that lasts until then would seem to be complete.
                raise self._bad("broke the connection") from None
            except CasemateError as error:
                raise failure_of(error, self._place.port) from None
            self._patience.deadline = anyio.current_time() + self._head_s
        piece, self._unread = self._unread[:SLICE], self._unread[SLICE:]
        self._wire.receive_data(piece)

    def _bad(self, what: str) -> GuestFailed:
        return GuestFailed(502, f"The server on port {self._place.port} of the sandbox {what}")
