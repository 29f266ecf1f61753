"""Byte streams to servers on the guest's localhost. What leaves a guest: tests/vmm/guest_network."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream

from tests.waiting import PATIENCE_S
from vmm.errors import Conflict, GuestError, InvalidInput
from vmm.guest.link import GuestLink

pytestmark = pytest.mark.anyio

KIB = 1024
MIB = 1024 * 1024


@asynccontextmanager
async def serving(handle: Callable[[SocketStream], Awaitable[None]]) -> AsyncGenerator[int]:
    """A TCP server of this host, which is the guest's, for the length of a block: its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def echo(stream: SocketStream) -> None:
    async with stream:
        async for piece in stream:
            await stream.send(piece)


async def rest(stream: ByteStream) -> bytes:
    return b"".join([piece async for piece in stream])


async def test_a_stream_carries_both_directions_each_to_its_own_end(link: GuestLink) -> None:
    whole = bytes(range(256)) * (MIB // 64)

    async def reply(stream: SocketStream) -> None:
        async with stream:
            received = await rest(stream)
            await stream.send(b"%d bytes" % len(received))
            await stream.send_eof()

    async with serving(reply) as port, link.connect(port) as stream:
        await stream.send(whole)
        await stream.send_eof()
        assert await rest(stream) == b"%d bytes" % len(whole)


async def test_what_a_server_sends_arrives_while_it_is_sent_to(link: GuestLink) -> None:
    whole = bytes(range(256)) * (8 * MIB // 256)
    async with serving(echo) as port, link.connect(port) as stream, anyio.create_task_group() as tasks:

        async def send() -> None:
            await stream.send(whole)
            await stream.send_eof()

        tasks.start_soon(send)
        assert await rest(stream) == whole


async def test_a_connection_to_the_agent_serves_the_next_call_after_a_stream_has_ended(link: GuestLink) -> None:
    async with serving(echo) as port:
        for word in (b"one", b"two"):
            async with link.connect(port) as stream:
                await stream.send(word)
                await stream.send_eof()
                assert await rest(stream) == word
    assert (await link.ping()).nonce


async def test_leaving_a_stream_early_resets_it(link: GuestLink) -> None:
    broken = anyio.Event()

    async def wait(stream: SocketStream) -> None:
        async with stream:
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(await stream.receive())
                await stream.receive()
            broken.set()

    async with serving(wait) as port:
        async with link.connect(port) as stream:
            await stream.send(b"half a request")
            await stream.receive()
        await broken.wait()
    assert (await link.ping()).nonce


async def test_leaving_a_stream_resets_it_even_if_the_server_reads_nothing(link: GuestLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with link.connect(server.getsockname()[1]) as stream:
            accepted, _ = server.accept()
            stuck = anyio.CancelScope()
            with stuck:
                while True:
                    stuck.deadline = anyio.current_time() + 0.5
                    await stream.send(bytes(256 * KIB))
        with accepted:
            accepted.settimeout(PATIENCE_S)
            with pytest.raises(ConnectionResetError):
                while await anyio.to_thread.run_sync(accepted.recv, 64 * KIB):
                    pass


async def test_a_server_that_breaks_off_breaks_the_stream(link: GuestLink) -> None:
    async def reset(stream: SocketStream) -> None:
        await stream.receive()  # else it may be reset before it is connected
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await anyio.aclose_forcefully(stream)

    async with serving(reset) as port, link.connect(port) as stream:
        await stream.send(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


async def test_a_port_on_which_nothing_listens_is_a_conflict_that_says_so(link: GuestLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Conflict, match=f"nothing listens on port {port} in the sandbox"):
        async with link.connect(port):
            pytest.fail("there is nothing to connect to")
    assert (await link.ping()).nonce


@pytest.mark.parametrize("port", [0, 65536, -1])
async def test_a_port_that_does_not_exist_is_refused(link: GuestLink, port: int) -> None:
    with pytest.raises(InvalidInput, match="port"):
        async with link.connect(port):
            pytest.fail("there is no such port")


async def test_two_hundred_streams_at_once_carry_what_is_theirs(link: GuestLink) -> None:
    async with serving(echo) as port, anyio.create_task_group() as tasks:

        async def one(number: int) -> None:
            async with link.connect(port) as stream:
                await stream.send(b"%d" % number)
                await stream.send_eof()
                assert await rest(stream) == b"%d" % number

        for number in range(200):
            tasks.start_soon(one, number)


async def test_an_agent_without_a_network_of_its_own_says_so(link: GuestLink) -> None:
    with pytest.raises(GuestError, match="no network"):
        await link.outbound(wait_ms=0)
