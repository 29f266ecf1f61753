"""One request and its reply: the base of every call of the link."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import anyio

from vmm.agent import frames
from vmm.errors import CasemateError, LinkError, LinkTimeout

from .connection import Connection, Dial, refusal, unpack
from .pool import Pool
from .vitality import GRACE, Grace, Vitality


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A RESULT frame, and the data that came before it."""

    value: dict[str, Any]
    data: bytes


class Caller:
    """Sends requests over pooled connections. The base of the link's groups of calls."""

    def __init__(self, dial: Dial, secret: bytes, max_idle: int, grace: Grace = GRACE) -> None:
        self._vitality = Vitality(lambda: self._exchange(pack_request("ping", {}, with_body=False)), grace)
        self._pool = Pool(dial, secret, max_idle, self._vitality.heard)

    async def _call(
        self,
        name: str,
        /,
        *,
        body: bytes | None = None,
        own_s: float = 0.0,
        more_s: float | None = None,
        most_data: int = 0,
        more: dict[str, object] | None = None,
        **arguments: object,
    ) -> Reply:
        """Perform one operation with a bounded answer.

        Args:
            name: The operation.
            body: Data that the request carries, if it takes any.
            own_s: How long the operation is expected to take.
            more_s: How much longer it may take while the guest is alive; None for the link's default.
            most_data: Limit on the bytes of data in the answer.
            more: Further arguments of the operation.
            arguments: The operation's arguments.

        Raises:
            CasemateError: The guest refused.
            LinkError: The connection broke, or the answer is invalid.
            LinkTimeout: The guest stopped answering, or took too long.
        """
        arguments |= more or {}
        if body is not None and len(body) > frames.MAX_DATA:
            with deadline(name, own_s + (self._vitality.grace.living_s if more_s is None else more_s)):
                return await self._upload(name, _pieces(body), most_data=most_data, **arguments)
        request = pack_request(name, arguments, with_body=body is not None)
        if body is not None:
            request += (frames.pack(frames.DATA, body) if body else b"") + frames.pack(frames.END)
        async with self._vitality.watch(name, own_s, more_s=more_s):
            return await self._exchange(request, most_data)
        raise AssertionError  # unreachable: the block either returns or raises

    async def _exchange(self, request: bytes, most_data: int = 0) -> Reply:
        """Send one request and wait for its answer, without a deadline."""
        async with self._pool.connection() as connection:
            await connection.send(request)
            try:
                return await read_answer(connection, most_data)
            except GuestRefusalError as refused:
                await self._pool.keep(connection)
                raise refused.error from None
        raise AssertionError  # unreachable: the block either returns or raises

    async def _upload(
        self, name: str, /, chunks: AsyncIterable[bytes], *, most_data: int = 0, **arguments: object
    ) -> Reply:
        """Perform one operation whose data is sent in pieces; each step has a deadline, but not the whole transfer.

        Raises:
            CasemateError: As `_call`; and whatever `chunks` raises.
        """
        request = pack_request(name, arguments, with_body=True)
        async with self._vitality.watch(name, more_s=math.inf), self._pool.connection() as connection:
            upload = _Upload(connection, self._vitality)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(upload.send, request, chunks)
                await upload.listen(most_data)
                tasks.cancel_scope.cancel()
            return upload.reply(name)
        raise AssertionError  # unreachable: the block either returns or raises

    @asynccontextmanager
    async def _stream(self, name: str, /, *, own_s: float = 0.0, **arguments: object) -> AsyncGenerator[Stream]:
        """Perform one operation whose answer comes in pieces; leaving the block early closes the connection.

        Args:
            name: The operation.
            own_s: The longest expected time between pieces.
            arguments: The operation's arguments.
        """
        request = pack_request(name, arguments, with_body=False)
        connection: Connection | None = None
        stream: Stream | None = None
        try:
            # Cancellation may also arrive while the watch ends, after the request was sent.
            async with self._vitality.watch(name):
                connection = await self._pool.take()
                await connection.send(request)
            stream = Stream(connection, name, own_s, self._vitality)
            yield stream
        finally:
            if connection is not None:
                if stream is not None and stream.finished:
                    await self._pool.keep(connection)
                else:
                    await connection.aclose()


class Stream:
    """The frames of an answer that comes in pieces.

    Attributes:
        finished: Whether all of it has arrived, so that the connection is free again.
        result: The guest's result at the end.
    """

    def __init__(self, connection: Connection, name: str, own_s: float, vitality: Vitality) -> None:
        self.finished = False
        self.result: dict[str, Any] = {}
        self._connection = connection
        self._name = name
        self._own_s = own_s
        self._vitality = vitality

    async def receive(self) -> tuple[int, bytes] | None:
        """Receive the next frame before the final one, or None at the end.

        Raises:
            CasemateError: The guest refused.
            LinkError: The connection broke.
            LinkTimeout: Nothing arrived for too long.
        """
        if self.finished:
            return None
        kind, payload = await self._frame()
        if kind == frames.ERROR:
            self.finished = True
            raise refusal(payload)
        if kind == frames.RESULT:
            self.finished = True
            self.result = unpack(payload)
            return None
        return kind, payload

    async def _frame(self) -> tuple[int, bytes]:
        patience_s = self._vitality.patience_s(self._own_s)
        # Most frames arrive at once, and a watch costs more than a frame. The next try continues a partial frame.
        with anyio.move_on_after(patience_s):
            return await self._connection.receive()
        async with self._vitality.watch(self._name, self._own_s, waited_s=patience_s):
            return await self._connection.receive()
        raise AssertionError  # unreachable: the block either returns or raises


class DataStream:
    """The data of an answer that comes in pieces."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        """Iterate over the pieces that have not arrived yet."""
        return self

    async def __anext__(self) -> bytes:
        """Receive the next piece.

        Raises:
            CasemateError: The guest refused.
            LinkError: The connection broke, or a frame is not data.
        """
        frame = await self._stream.receive()
        if frame is None:
            raise StopAsyncIteration
        if frame[0] != frames.DATA:
            raise LinkError(f"The guest sent a frame of kind {frame[0]} instead of data")
        return frame[1]


class _Upload:
    """Sends and listens at once: the answer may arrive before everything is sent, for example when the disk is full."""

    def __init__(self, connection: Connection, vitality: Vitality) -> None:
        self._connection = connection
        self._vitality = vitality
        self._living_s = vitality.grace.living_s
        self._patience = anyio.CancelScope()
        self._failure: Exception | None = None
        self._reply: Reply | None = None

    async def send(self, request: bytes, chunks: AsyncIterable[bytes]) -> None:
        try:
            await self._step(request)
            async for chunk in chunks:
                for start in range(0, len(chunk), frames.MAX_DATA):
                    await self._step(frames.pack(frames.DATA, chunk[start : start + frames.MAX_DATA]))
            await self._step(frames.pack(frames.END))
        except LinkError as error:
            self._failure = error
            self._patience.deadline = anyio.current_time() + 1  # the guest's reason may still arrive
        except Exception as error:  # an error of the source, raised again in the caller
            self._failure = error
            self._patience.cancel()
        else:
            self._patience.deadline = anyio.current_time() + self._living_s

    async def listen(self, most_data: int) -> None:
        with self._patience:
            try:
                self._reply = await read_answer(self._connection, most_data)
            except GuestRefusalError as refused:
                self._failure = refused.error
            except LinkError as error:
                self._failure = self._failure or error

    def reply(self, name: str) -> Reply:
        if self._failure is not None:
            raise self._failure
        if self._reply is None:
            raise LinkTimeout(f"The guest did not answer {name!r} within {self._living_s:g} s")
        return self._reply

    async def _step(self, data: bytes) -> None:
        with deadline("write", self._living_s):
            await self._connection.send(data)


async def read_answer(connection: Connection, most_data: int = 0) -> Reply:
    """Read the frames up to RESULT.

    Raises:
        GuestRefusalError: The guest refused; the connection can be used again if all data was sent.
        LinkError: The connection broke, or a frame is unexpected.
    """
    data = bytearray()
    while True:
        kind, payload = await connection.receive()
        if kind == frames.RESULT:
            return Reply(value=unpack(payload), data=bytes(data))
        if kind == frames.ERROR:
            raise GuestRefusalError(refusal(payload))
        if kind != frames.DATA or len(data) + len(payload) > most_data:
            raise LinkError(f"The guest answered with an unexpected frame of kind {kind}")
        data += payload


class GuestRefusalError(Exception):
    """Carries a guest's refusal to where the connection is handled.

    Attributes:
        error: The error that the caller gets.
    """

    def __init__(self, error: CasemateError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def deadline(name: str, seconds: float) -> Generator[None]:
    """Raise LinkTimeout if a block takes longer."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise LinkTimeout(f"The guest did not answer {name!r} within {seconds:g} s") from error


def pack_request(name: str, arguments: dict[str, object], *, with_body: bool) -> bytes:
    """Pack a REQUEST frame."""
    value: dict[str, Any] = {"op": name, **arguments}
    if with_body:
        value["data"] = True
    return frames.pack_json(frames.REQUEST, value)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), frames.MAX_DATA):
        yield body[start : start + frames.MAX_DATA]
