from __future__ import annotations

import os
import secrets
import socket
import struct
from functools import partial

import anyio
import pytest
from anyio.abc import SocketStream

from tests.vmm.guest.agents import Agent
from tests.waiting import PATIENCE_S
from vmm.agent import frames
from vmm.errors import GuestFileMissing, InvalidInput, LinkError, LinkTimeout
from vmm.guest.connection import Connection
from vmm.guest.link import GuestLink
from vmm.guest.values import Command

pytestmark = pytest.mark.anyio


def knock(agent: Agent) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", agent.port), 10)
    kind, length = frames.unpack_header(read(sock, 5))
    assert (kind, length) == (frames.HELLO, 1 + frames.NONCE)
    return sock


def enter(agent: Agent) -> socket.socket:
    """A connection that has authenticated."""
    sock = socket.create_connection(("127.0.0.1", agent.port), 10)
    nonce, mine = read(sock, 5 + 1 + frames.NONCE)[6:], os.urandom(frames.NONCE)
    sock.sendall(frames.pack(frames.AUTH, mine + frames.host_proof(agent.secret, nonce, mine)))
    assert read(sock, 5 + frames.PROOF_SIZE)[5:] == frames.agent_proof(agent.secret, nonce, mine)
    return sock


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "closed"
        data += piece
    return data


def is_closed(sock: socket.socket) -> bool:
    with sock:
        try:
            while sock.recv(65536):
                pass
        except ConnectionResetError:
            return True
        return True


async def test_the_agent_describes_itself(link: GuestLink) -> None:
    first, second = await link.ping(), await link.ping()
    assert first.nonce == second.nonce
    assert second.monotonic_ns > first.monotonic_ns


async def test_a_wrong_secret_opens_nothing(guest: Agent) -> None:
    link = guest.link(secrets.token_bytes(32))
    with pytest.raises(LinkError, match="closed"):
        await link.ping()
    await link.aclose()


@pytest.mark.parametrize(
    "sent",
    [
        frames.pack(frames.AUTH, b""),
        frames.pack(frames.AUTH, bytes(64)),
        frames.pack_json(frames.REQUEST, {"op": "ping"}),
        struct.pack(">BI", frames.REQUEST, 8_000_000),
        struct.pack(">BI", frames.AUTH, 2**32 - 1),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
    ],
)
async def test_a_client_with_another_protocol_is_disconnected(guest: Agent, link: GuestLink, sent: bytes) -> None:
    sock = knock(guest)
    sock.sendall(sent)
    assert is_closed(sock)
    await link.ping()


@pytest.mark.parametrize(
    "sent",
    [
        frames.pack(frames.DATA, b"x"),
        frames.pack(frames.REQUEST, b"{"),
        frames.pack(frames.REQUEST, b"[]"),
        frames.pack(frames.REQUEST, b"[" * 100_000),
        struct.pack(">BI", 99, 0),
        struct.pack(">BI", frames.REQUEST, 2**31),
        frames.pack_json(frames.REQUEST, {"op": "write", "path": "/tmp/x", "data": True}) + frames.pack(frames.HELLO),
    ],
)
async def test_a_malformed_frame_closes_only_its_connection(guest: Agent, link: GuestLink, sent: bytes) -> None:
    await link.ping()
    sock = enter(guest)
    sock.sendall(sent)
    assert is_closed(sock)
    await link.ping()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": 5},
        {"op": "nope"},
        {"op": "stat"},
        {"op": "stat", "path": 5},
        {"op": "stat", "path": "\ud800"},
        {"op": "exec", "argv": ["a", 5], "wait_ms": 1},
        {"op": "exec", "argv": {}, "wait_ms": 1},
        {"op": "exec", "shell": "true"},
        {"op": "exec", "shell": "true", "wait_ms": -1},
        {"op": "exec", "shell": "true", "wait_ms": True},
        {"op": "exec", "shell": "true", "wait_ms": 2**70},
        {"op": "exec", "shell": "true", "wait_ms": 1, "env": []},
        {"op": "read", "path": "/etc/passwd", "offset": 2**64},
        {"op": "identify", "entropy": "zz", "secret": "zz", "machine_id": "", "hostname": "", "clock_ns": 1},
        {"op": "set_clock", "clock_ns": 0},
        {"op": "terminal_open", "cols": "x"},
    ],
)
async def test_an_invalid_request_is_answered_and_the_connection_stays_open(
    guest: Agent, request_: dict[str, object]
) -> None:
    with enter(guest) as sock:
        for sent, expected in ((request_, frames.ERROR), ({"op": "ping"}, frames.RESULT)):
            sock.sendall(frames.pack_json(frames.REQUEST, sent))
            kind, length = frames.unpack_header(read(sock, 5))
            answer = frames.unpack_json(read(sock, length))
            assert kind == expected, answer
        assert "the agent failed" not in str(answer)


@pytest.mark.parametrize(
    "proof",
    [
        frames.pack(frames.PROOF, bytes(32)),
        frames.pack_json(frames.RESULT, {}),
        struct.pack(">BI", frames.PROOF, 2**32 - 1),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
    ],
)
async def test_an_impostor_learns_nothing(proof: bytes) -> None:
    heard = bytearray()

    async def pretend(stream: SocketStream) -> None:
        async with stream:
            await stream.send(frames.pack(frames.HELLO, bytes((frames.VERSION,)) + bytes(frames.NONCE)))
            heard.extend(await stream.receive())
            await stream.send(proof)
            if proof:
                async for piece in stream:
                    heard.extend(piece)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, pretend)
        link = GuestLink(partial(anyio.connect_tcp, "127.0.0.1", port), secrets.token_bytes(32))
        with pytest.raises(LinkError):
            await link.exec(Command(shell="echo a-secret-command"), wait_ms=1000)
        await link.aclose()
        tasks.cancel_scope.cancel()
    assert len(heard) == 5 + frames.NONCE + frames.PROOF_SIZE


async def test_an_agent_of_another_version_is_named(link: GuestLink) -> None:
    del link

    async def pretend(stream: SocketStream) -> None:
        async with stream:
            await stream.send(frames.pack(frames.HELLO, bytes((9,)) + bytes(frames.NONCE)))
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, pretend)
        with pytest.raises(LinkError, match="version 1, got 9"):
            await Connection.open(partial(anyio.connect_tcp, "127.0.0.1", port), b"s" * 32, 0)
        tasks.cancel_scope.cancel()


async def test_a_call_to_a_silent_guest_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = GuestLink(partial(anyio.connect_tcp, "127.0.0.1", server.getsockname()[1]), b"s" * 32)
        with pytest.raises(LinkTimeout, match="ping"):
            await link.ping(timeout_ms=200)
        await link.aclose()


async def test_a_guest_that_does_not_listen_is_a_link_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    link = GuestLink(partial(anyio.connect_tcp, "127.0.0.1", port), b"s" * 32)
    with pytest.raises(LinkError, match="reached"):
        await link.ping()
    await link.aclose()
    with pytest.raises(LinkError, match="closed"):
        await link.ping()


async def counted(guest: Agent) -> tuple[GuestLink, list[SocketStream]]:
    dialled: list[SocketStream] = []

    async def dial() -> SocketStream:
        stream = await anyio.connect_tcp("127.0.0.1", guest.port)
        dialled.append(stream)
        return stream

    return GuestLink(dial, guest.secret), dialled


async def test_connections_are_reused_even_after_a_refusal(guest: Agent) -> None:
    link, dialled = await counted(guest)
    await link.ping()
    await link.read_file("/etc/passwd")
    with pytest.raises(GuestFileMissing):
        await link.read_file("/no/such")
    with pytest.raises(InvalidInput, match="no-such"):
        await link.exec(Command(argv=("no-such",)), wait_ms=10)
    await link.exec(Command(argv=("true",)), wait_ms=10_000)
    assert len(dialled) == 1
    await link.aclose()


async def test_a_dead_idle_connection_is_replaced(guest: Agent) -> None:
    link, dialled = await counted(guest)
    await link.ping()
    raw = dialled[0].extra(anyio.abc.SocketAttribute.raw_socket)
    raw.shutdown(socket.SHUT_RDWR)
    await link.ping()
    assert len(dialled) == 2
    await link.drop_connections()
    await link.ping()
    assert len(dialled) == 3
    await link.aclose()


async def test_a_hundred_connections_at_once(guest: Agent) -> None:
    link, dialled = await counted(guest)
    barrier = anyio.Event()

    async def run() -> None:
        async with link.open_read("/etc/passwd") as (_, pieces):
            if len(dialled) == 100:
                barrier.set()
            await barrier.wait()
            assert b"".join([piece async for piece in pieces])

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(run)
    assert len(dialled) == 100
    await link.aclose()


async def test_a_connection_that_ends_before_the_greeting_is_dialled_again(guest: Agent) -> None:
    dials = 0

    async def dial() -> SocketStream:
        nonlocal dials
        dials += 1
        return await (_hung_up() if dials < 3 else anyio.connect_tcp("127.0.0.1", guest.port))

    link = GuestLink(dial, guest.secret)
    assert (await link.ping()).nonce
    assert dials == 3
    await link.aclose()


async def test_a_guest_that_always_hangs_up_is_a_link_error() -> None:
    link = GuestLink(_hung_up, secrets.token_bytes(32))
    with pytest.raises(LinkError, match="without answering"):
        await link.ping()
    await link.aclose()


async def _hung_up() -> SocketStream:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await anyio.connect_tcp(*listener.getsockname())
        listener.accept()[0].close()
    return stream
