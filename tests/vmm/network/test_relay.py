"""Both directions are relayed to their ends, resets as well, and nothing piles up."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from os import urandom
from struct import pack

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream

from tests.vmm.network.programs import LOOPBACK, Program, program
from tests.waiting import PATIENCE_S
from vmm.network.relay import HALF_CLOSED_S, Relayed, relay
from vmm.network.tcp import PIECE, reset

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


class Between:
    """What became of a relay between two programs, of which one stands for the world's server."""

    def __init__(self) -> None:
        self.ended: list[Relayed | Exception] = []
        self.done = anyio.Event()


@asynccontextmanager
async def relaying(
    *, first: bytes = b"", outgoing: Callable[[bytes], bytes] | None = None, half_closed_s: float = HALF_CLOSED_S
) -> AsyncGenerator[tuple[Program, Program, Between]]:
    async with program() as guest, program() as world, anyio.create_task_group() as tasks:
        between = Between()

        async def run() -> None:
            try:
                async with guest.take() as one, world.take() as other:
                    end = await relay(one, other, first=first, outgoing=outgoing, half_closed_s=half_closed_s)
                    between.ended.append(end)
            except ValueError as error:
                between.ended.append(error)
            between.done.set()

        tasks.start_soon(run)
        with anyio.fail_after(PATIENCE_S):
            yield guest, world, between
        tasks.cancel_scope.cancel()


async def test_each_direction_ends_on_its_own() -> None:
    async with relaying(first=b"what came first, ") as (guest, world, between):
        await guest.stream.send(b"a question")
        await guest.stream.send_eof()
        assert await world.everything() == b"what came first, a question"
        await world.stream.send(b"an answer")
        await world.stream.send_eof()
        assert await guest.everything() == b"an answer"
        await between.done.wait()
    assert between.ended == [Relayed(sent=27, received=9, whole=True)]


async def test_megabytes_arrive_in_both_directions_at_once() -> None:
    up, down = urandom(4 * MIB), urandom(3 * MIB)
    received: dict[str, bytes] = {}

    async def exchange(who: str, one: Program, data: bytes) -> None:
        async def send() -> None:
            await one.stream.send(data)
            await one.stream.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            received[who] = await one.everything()

    async with relaying() as (guest, world, between):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange, "guest", guest, up)
            tasks.start_soon(exchange, "world", world, down)
        await between.done.wait()
    assert received == {"guest": down, "world": up}
    assert between.ended == [Relayed(sent=len(up), received=len(down), whole=True)]


@pytest.mark.parametrize("side", ["guest", "world"])
async def test_a_reset_of_one_end_resets_the_other(side: str) -> None:
    async with relaying() as (guest, world, between):
        one, other = (guest, world) if side == "guest" else (world, guest)
        await one.stream.send(b"x")
        assert await other.stream.receive() == b"x"
        await reset(one.stream)
        assert await other.is_reset()
        await between.done.wait()
    assert [isinstance(end, Relayed) and not end.whole for end in between.ended] == [True]


async def test_what_a_server_said_before_it_closed_arrives_although_it_reads_no_more() -> None:
    async with relaying() as (guest, world, between):
        await guest.stream.send(b"a large body that")
        assert await world.stream.receive()
        await world.stream.send(b"413, too large")
        assert await guest.stream.receive() == b"413, too large"
        await world.stream.aclose()
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                await guest.stream.send(bytes(1000))
        await between.done.wait()


async def test_a_connection_ends_after_silence_once_one_direction_has_ended() -> None:
    async with relaying(half_closed_s=0.05) as (guest, world, between):
        await guest.stream.send_eof()
        assert await world.everything() == b""
        assert await guest.is_reset()
        await between.done.wait()
    assert between.ended == [Relayed(sent=0, received=0, whole=False)]


async def test_a_refusal_of_what_is_sent_resets_both_ends_and_is_raised() -> None:
    def check(data: bytes) -> bytes:
        if b"bad" in data:
            raise ValueError("bad")
        return data.upper()

    async with relaying(outgoing=check) as (guest, world, between):
        await guest.stream.send(b"good")
        assert await world.stream.receive() == b"GOOD"
        await guest.stream.send(b"bad")
        assert await guest.is_reset()
        assert await world.is_reset()
        await between.done.wait()
    assert [str(end) for end in between.ended] == ["bad"]


async def test_a_cancelled_relay_resets_both_ends() -> None:
    async with program() as guest, program() as world:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carried, guest, world)
            await guest.stream.send(b"x")
            assert await world.stream.receive() == b"x"
            tasks.cancel_scope.cancel()
        assert await guest.is_reset()
        assert await world.is_reset()


async def carried(guest: Program, world: Program) -> None:
    async with guest.take() as one, world.take() as other:
        await relay(one, other)


async def test_nothing_is_taken_from_one_end_before_the_other_has_taken_the_last_piece() -> None:
    source, sink = Endless(), Deaf()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay, source, sink)
        await sink.asked.wait()
        await anyio.wait_all_tasks_blocked()
        assert source.given == PIECE
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_a_stream_whose_peer_has_gone_can_be_reset_and_again() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        stream = await anyio.connect_tcp(LOOPBACK, server.getsockname()[1])
        other, _ = server.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        other.close()
    with pytest.raises(anyio.BrokenResourceError):
        await stream.receive()
    await reset(stream)
    await reset(stream)


class Deaf(ByteStream):
    """A stream that says nothing, and never finishes sending."""

    def __init__(self) -> None:
        self.asked = anyio.Event()

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        await anyio.sleep_forever()
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        self.asked.set()
        await anyio.sleep_forever()

    async def send_eof(self) -> None:
        raise anyio.BrokenResourceError

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


class Endless(Deaf):
    """A stream that always has more."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        await anyio.lowlevel.checkpoint()
        self.given += max_bytes
        return bytes(max_bytes)
