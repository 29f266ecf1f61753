"""Relays bytes between a program in a guest and a server in the world, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream

from .tcp import PIECE, reset

HALF_CLOSED_S = 300.0
"""Seconds of silence after which a connection ends of which one direction has ended.

The other end may have gone for good: whether a program has closed its socket or only one direction of it cannot be
seen from here.
"""

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """What was relayed when a connection ended.

    Attributes:
        sent: Bytes from the guest to the world.
        received: Bytes from the world to the guest.
        whole: Whether both ends have sent everything; if not, both streams were reset.
    """

    sent: int
    received: int
    whole: bool


async def relay(
    guest: ByteStream,
    world: ByteStream,
    *,
    first: bytes = b"",
    outgoing: Callable[[bytes], bytes] | None = None,
    half_closed_s: float = HALF_CLOSED_S,
) -> Relayed:
    """Relay until both directions have ended, or one of the streams is reset.

    One piece is held for each direction, and none is taken from a stream before the other stream has taken the last.

    Args:
        guest: The guest's end.
        world: The world's end.
        first: What the guest sent before, for the world.
        outgoing: Gives what to pass on when the guest sends something, and, called with nothing, when it has sent
            everything; whatever it raises ends the connection.
        half_closed_s: Seconds of silence after which it ends once one direction has ended.

    Raises:
        Exception: What `outgoing` raised; both streams were reset.
    """
    one_ended = anyio.Event()
    out = _Direction(guest, world, outgoing, one_ended)
    into = _Direction(world, guest, None, one_ended)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(out.run, first, tasks.cancel_scope)
            tasks.start_soon(into.run, b"", tasks.cancel_scope)
            await one_ended.wait()
            await _silence(out, into, half_closed_s)
            tasks.cancel_scope.cancel()
    except BaseException:
        await reset(guest)
        await reset(world)
        raise
    whole = out.whole and into.whole
    if not whole:
        await reset(guest)
        await reset(world)
    if out.failure is not None:
        raise out.failure
    return Relayed(sent=out.count, received=into.count, whole=whole)


class _Direction:
    """Takes pieces from one stream and gives them to another.

    Attributes:
        count: Bytes that the other stream took.
        ended: Set when there is nothing more to do.
        whole: Whether everything was passed on, the end as well.
        failure: What `check` raised.
    """

    def __init__(
        self, source: ByteStream, sink: ByteStream, check: Callable[[bytes], bytes] | None, one_ended: anyio.Event
    ) -> None:
        self.count = 0
        self.ended = anyio.Event()
        self.whole = False
        self.failure: Exception | None = None
        self._source = source
        self._sink = sink
        self._check = check
        self._one_ended = one_ended

    async def run(self, first: bytes, both: anyio.CancelScope) -> None:
        """Pass everything on; cancel both directions if the source is lost."""
        try:
            data: bytes | None = first
            while data is not None:
                # A sink that is lost may have sent something before, which the other direction still delivers.
                if data and not await self._give(data):
                    return
                del data  # so that one piece is held, not two
                data = await self._take()
            self.whole = await self._end()
        except _GONE:
            both.cancel()
        except Exception as error:
            self.failure = error
            both.cancel()
        finally:
            self.ended.set()
            self._one_ended.set()

    async def _take(self) -> bytes | None:
        """Take what comes next; None if the source has sent everything."""
        try:
            data = await self._source.receive(PIECE)
        except anyio.EndOfStream:
            return None
        return data if self._check is None else self._check(data)

    async def _give(self, data: bytes) -> bool:
        try:
            await self._sink.send(data)
        except _GONE:
            return False
        self.count += len(data)
        return True

    async def _end(self) -> bool:
        held = b"" if self._check is None else self._check(b"")
        if held and not await self._give(held):
            return False
        try:
            await self._sink.send_eof()
        except _GONE:
            return False
        return True


async def _silence(out: _Direction, into: _Direction, limit_s: float) -> None:
    """Wait until both directions have ended, or nothing was passed on for too long."""
    last = -1
    while last != out.count + into.count and not (out.ended.is_set() and into.ended.is_set()):
        last = out.count + into.count
        with anyio.move_on_after(limit_s):
            await out.ended.wait()
            await into.ended.wait()
