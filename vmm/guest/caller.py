"""One request and its reply: what every call of the link is made of."""

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
    """A RESULT, and the data that came before it."""

    value: dict[str, Any]
    data: bytes


class Caller:
    """Sends requests over pooled connections. The base of the link's families of calls."""

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
        """One operation with a bounded answer.

        Args:
            name: The operation.
            body: Data that goes with the request, if it takes any.
            own_s: How long it is asked to take.
            more_s: How much longer it may take while the guest lives; None for what the link's grace says.
            most_data: Bytes of data that the answer may have.
            more: Arguments of the operation that were put together elsewhere.
            arguments: The operation's arguments.

        Raises:
            CasemateError: What the guest refused.
            LinkError: The connection broke, or the answer is none.
            LinkTimeout: The guest fell silent, or the time passed.
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
        raise AssertionError  # Not reached: the block either returns or raises.

    async def _exchange(self, request: bytes, most_data: int = 0) -> Reply:
        """One request and its answer, for as long as that takes."""
        async with self._pool.connection() as connection:
            await connection.send(request)
            try:
                return await read_answer(connection, most_data)
            except GuestRefusalError as refused:
                await self._pool.keep(connection)
                raise refused.error from None
        raise AssertionError  # Not reached: the block either returns or raises.

    async def _upload(
        self, name: str, /, chunks: AsyncIterable[bytes], *, most_data: int = 0, **arguments: object
    ) -> Reply:
        """One operation whose data comes piece by piece; each step has a deadline, the transfer as a whole has none.

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
        raise AssertionError  # Not reached: the block either returns or raises.

    @asynccontextmanager
    async def _stream(self, name: str, /, *, own_s: float = 0.0, **arguments: object) -> AsyncGenerator[Stream]:
        """One operation whose answer comes piece by piece; leaving the block before its end closes the connection.

        Args:
            name: The operation.
            own_s: How far apart its pieces may be.
            arguments: The operation's arguments.
        """
        request = pack_request(name, arguments, with_body=False)
        async with self._vitality.watch(name):
            connection = await self._pool.take()
            try:
                await connection.send(request)
            except BaseException:
                await connection.aclose()
                raise
        stream = Stream(connection, name, own_s, self._vitality)
        try:
            yield stream
        finally:
            if stream.finished:
                await self._pool.keep(connection)
            else:
                await connection.aclose()


class Stream:
    """The frames of an answer that comes piece by piece.

    Attributes:
        finished: Whether all of it has come, so that the connection is free again.
        result: What the guest said at the end.
    """

    def __init__(self, connection: Connection, name: str, own_s: float, vitality: Vitality) -> None:
        self.finished = False
        self.result: dict[str, Any] = {}
        self._connection = connection
        self._name = name
        self._own_s = own_s
        self._vitality = vitality

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame before the final one, or None at the end.

        Raises:
            CasemateError: What the guest refused.
            LinkError: The connection broke.
            LinkTimeout: Nothing came for too long.
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
        # Most frames come at once, and a watch costs more than a frame. What has come of one is kept for the next try.
        with anyio.move_on_after(patience_s):
            return await self._connection.receive()
        async with self._vitality.watch(self._name, self._own_s, waited_s=patience_s):
            return await self._connection.receive()
        raise AssertionError  # Not reached: the block either returns or raises.


class DataStream:
    """The data of such an answer, piece by piece."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        """The pieces that have not come yet."""
        return self

    async def __anext__(self) -> bytes:
        """The next piece.

        Raises:
            CasemateError: What the guest said against it.
            LinkError: The connection broke, or what came is no data.
        """
        frame = await self._stream.receive()
        if frame is None:
            raise StopAsyncIteration
        if frame[0] != frames.DATA:
            raise LinkError(f"The guest sent a frame of kind {frame[0]} where data belongs")
        return frame[1]


class _Upload:
    """Sending and listening at once: the answer may come before all is sent, when the disk is full for example."""

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
            self._patience.deadline = anyio.current_time() + 1  # The guest's own reason may be on its way.
        except Exception as error:  # The source's own: it is raised where the call was made.
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
    """The frames up to RESULT.

    Raises:
        GuestRefusalError: The guest refused; the connection is in order if all data was sent.
        LinkError: The connection broke, or what came does not belong there.
    """
    data = bytearray()
    while True:
        kind, payload = await connection.receive()
        if kind == frames.RESULT:
            return Reply(value=unpack(payload), data=bytes(data))
        if kind == frames.ERROR:
            raise GuestRefusalError(refusal(payload))
        if kind != frames.DATA or len(data) + len(payload) > most_data:
            raise LinkError(f"The guest answered with a frame of kind {kind} that does not belong there")
        data += payload


class GuestRefusalError(Exception):
    """Carries a guest's refusal to where the connection is handled.

    Attributes:
        error: What the caller gets.
    """

    def __init__(self, error: CasemateError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def deadline(name: str, seconds: float) -> Generator[None]:
    """Turn the end of the time into the link's own error."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise LinkTimeout(f"The guest did not answer {name!r} within {seconds:g} s") from error


def pack_request(name: str, arguments: dict[str, object], *, with_body: bool) -> bytes:
    """A REQUEST frame."""
    value: dict[str, Any] = {"op": name, **arguments}
    if with_body:
        value["data"] = True
    return frames.pack_json(frames.REQUEST, value)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), frames.MAX_DATA):
        yield body[start : start + frames.MAX_DATA]
