"""What the listener takes, from real guests by redirected packets, and whose it is."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Address

import anyio
import dns.message
import pytest
from structlog.testing import capture_logs

from tests.vmm.network.programs import LOOPBACK, echo, serving
from tests.vmm.network.taps.namespaces import lacking, namespace
from tests.vmm.network.taps.tap_host import GATEWAY, ONE, OTHER, SITE, STRANGER, TWO, TapHost, said, tap_host
from tests.waiting import PATIENCE_S, until
from vmm.errors import Unavailable
from vmm.network.resolver import MOST_ASKED
from vmm.network.taps.listener import Listener
from vmm.network.tcp import TcpStream
from vmm.network.way import MOST_CONNECTIONS, MOST_QUERIES

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(lacking()), reason=f"No namespaces with rules: {lacking()}")]


@asynccontextmanager
async def echoing(*ports: int, limit: int = 0) -> AsyncGenerator[TapHost]:
    async with serving(echo) as port, tap_host(*ports, world=port, limit=limit) as host:
        with anyio.fail_after(PATIENCE_S):
            yield host


async def answers(stream: TcpStream) -> bool:
    await stream.send(b"hello?")
    return await stream.receive() == b"hello?"


async def test_a_connection_is_carried_to_where_it_was_to_go() -> None:
    async with echoing(8080) as host:
        await host.serve(ONE, "internet")
        async with host.connected(ONE, OTHER, 8080) as stream:
            await stream.send(b"hello")
            await stream.send_eof()
            received = b""
            with pytest.raises(anyio.EndOfStream):
                while True:
                    received += await stream.receive()
            assert received == b"hello"
        assert host.world.dialled == [(str(OTHER), 8080)]
        assert host.events(ONE) == [(True, f"{OTHER}:8080", "")]


async def test_each_source_has_the_policy_of_its_own_sandbox() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        await host.serve(TWO, "none")
        async with host.connected(ONE, OTHER, 22) as stream:
            assert await answers(stream)
        assert await host.is_reset(TWO, OTHER, 22)
        assert host.events(ONE) == [(True, f"{OTHER}:22", "")]
        assert host.events(TWO) == [(False, f"{OTHER}:22", 'policy "none"')]


async def test_an_unknown_source_is_reset() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        assert await host.is_reset(STRANGER, OTHER, 22)
        assert host.world.dialled == []


async def test_a_source_is_unknown_once_its_sandbox_has_ended() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        async with host.connected(ONE, OTHER, 22) as stream:
            assert await answers(stream)
            await host.end(ONE)
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
        assert await host.is_reset(ONE, OTHER, 22)


async def test_a_connection_to_the_listener_itself_is_reset() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        assert await host.is_reset(ONE, GATEWAY.ip, host.listener.ports[0])
        assert host.events(ONE) == []


async def test_the_gateways_other_ports_are_the_host_which_nobody_reaches() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        assert await host.is_reset(ONE, GATEWAY.ip, 22)
        assert host.events(ONE) == [(False, f"{GATEWAY.ip}:22", f"address {GATEWAY.ip} of the host")]


async def test_connections_that_were_reset_at_once_leave_the_listener_as_it_is() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        for _ in range(50):
            own = host.socket(ONE, socket.SOCK_STREAM)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            own.connect_ex((str(OTHER), 22))
            own.close()
        async with host.connected(ONE, OTHER, 22) as stream:
            assert await answers(stream)


async def test_a_sandbox_has_so_many_connections_and_no_more() -> None:
    async with echoing(22) as host, AsyncExitStack() as stack:
        await host.serve(ONE, "internet")
        await host.serve(TWO, "internet")
        for _ in range(MOST_CONNECTIONS):
            await stack.enter_async_context(host.connected(ONE, OTHER, 22))
        await until(lambda: host.connections() == MOST_CONNECTIONS)
        assert await host.is_reset(ONE, OTHER, 22)
        assert "limit: too many connections" in host.events(ONE)[-1][2]
        async with host.connected(TWO, OTHER, 22) as stream:
            assert await answers(stream)


async def test_all_sandboxes_together_have_a_limit_too() -> None:
    async with echoing(22, limit=1) as host:
        await host.serve(ONE, "internet")
        await host.serve(TWO, "internet")
        async with host.connected(ONE, OTHER, 22) as stream:
            assert await answers(stream)
            assert await host.is_reset(TWO, OTHER, 22)
        assert host.events(TWO) == [(False, f"{OTHER}:22", "limit: too many connections are open")]
        await until(lambda: not host.connections())
        async with host.connected(TWO, OTHER, 22) as stream:
            assert await answers(stream)


@contextmanager
def few_files() -> Generator[None]:
    """Let this process open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_too_many_open_files_let_connections_wait() -> None:
    async with echoing(22) as host:
        await host.serve(ONE, "internet")
        own = host.socket(ONE, socket.SOCK_STREAM)
        stream = TcpStream(own)
        with few_files(), capture_logs() as said:
            assert own.connect_ex((str(OTHER), 22)) == errno.EINPROGRESS
            await anyio.wait_writable(own)
            await until(lambda: said)
        assert [entry["event"] for entry in said] == ["connections of sandboxes not accepted"]
        assert await answers(stream)
        await stream.aclose()


async def test_names_are_answered_over_udp_whatever_server_is_asked() -> None:
    async with echoing() as host:
        await host.serve(ONE, "example.com")
        assert await host.answered(ONE, "example.com", "9.9.9.9") == [str(SITE)]
        assert await host.answered(ONE, "example.com", str(GATEWAY.ip)) == [str(SITE)]
        assert await host.answered(ONE, "example.org") == ["REFUSED"]
        assert host.events(ONE) == [(False, "example.org", 'policy "allow"')]


async def test_names_are_answered_over_tcp_whatever_server_is_asked() -> None:
    async with echoing() as host:
        await host.serve(ONE, "example.com")
        assert await host.answered_by_tcp(ONE, "example.com", "9.9.9.9") == [str(SITE)]
        assert await host.answered_by_tcp(ONE, "example.com", str(GATEWAY.ip)) == [str(SITE)]
        assert await host.answered_by_tcp(ONE, "example.org") == ["REFUSED"]


async def test_without_a_network_names_are_refused_over_udp_and_reset_over_tcp() -> None:
    async with echoing() as host:
        await host.serve(ONE, "none")
        assert await host.answered(ONE, "example.com") == ["REFUSED"]
        assert await host.is_reset(ONE, IPv4Address("9.9.9.9"), 53)
        assert host.names.asked == []


async def test_queries_of_strangers_and_what_is_no_query_are_passed_over() -> None:
    async with echoing() as host:
        await host.serve(ONE, "internet")
        query = dns.message.make_query("example.com", "A").to_wire()
        with host.socket(STRANGER, socket.SOCK_DGRAM) as stranger, host.socket(ONE, socket.SOCK_DGRAM) as own:
            stranger.sendto(query, ("9.9.9.9", 53))
            for garbage in (b"", b"x", os.urandom(500), bytes(5000)):
                own.sendto(garbage, ("9.9.9.9", 53))
            assert await host.answered(ONE, "example.com") == [str(SITE)]
            for _ in range(3):  # "malformed", but nothing to what is longer than any query
                assert len(own.recv(4096)) == 12
            for silent in (stranger, own):
                with pytest.raises(BlockingIOError):
                    silent.recv(1)
        assert [name for name, *_ in host.names.asked] == ["example.com"]


async def test_a_sandbox_has_so_many_queries_at_once() -> None:
    async with echoing() as host:
        await host.serve(TWO, "none")
        host.taps.hold = anyio.Event()  # so that queries wait for the policy
        host.begin(ONE, "none")
        await until(lambda: host.gateway.way_of("1" * 24).address)
        with host.socket(ONE, socket.SOCK_DGRAM) as own:
            own.connect(("9.9.9.9", 53))
            for _ in range(2 * MOST_QUERIES):
                own.send(dns.message.make_query("example.com", "A").to_wire())
            assert await host.answered(TWO, "example.com") == ["REFUSED"]  # which came after those
            assert host.queries() == MOST_QUERIES
            host.taps.hold.set()
            await until(lambda: not host.queries())


async def test_a_sandbox_that_floods_the_resolver_leaves_it_to_the_others() -> None:
    async with echoing() as host:
        await host.serve(ONE, "internet")
        await host.serve(TWO, "none")
        host.names.hold = anyio.Event()
        with host.socket(ONE, socket.SOCK_DGRAM) as own:
            own.connect(("9.9.9.9", 53))
            for number in range(2 * MOST_QUERIES):
                own.send(dns.message.make_query(f"n{number}.example.com", "A").to_wire())
            await until(lambda: len(host.names.asked) == MOST_ASKED)
            assert await host.answered(TWO, "example.com") == ["REFUSED"]
            host.names.hold.set()
            await until(lambda: not host.queries())
            assert await host.answered(ONE, "example.com") == [str(SITE)]


async def test_an_answer_for_a_sandbox_that_has_gone_is_dropped() -> None:
    async with echoing() as host:
        await host.serve(ONE, "internet")
        host.names.hold = anyio.Event()
        with host.socket(ONE, socket.SOCK_DGRAM) as own:
            own.connect(("9.9.9.9", 53))
            own.send(dns.message.make_query("example.com", "A").to_wire())
            await until(lambda: host.names.asked)
            await host.end(ONE)
            host.names.hold.set()
            await host.serve(TWO, "internet")
            assert await host.answered(TWO, "example.com") == [str(SITE)]
            with pytest.raises(BlockingIOError):
                own.recv(1)


async def test_connections_and_queries_wait_for_the_policy() -> None:
    async with echoing(22) as host:
        host.taps.hold = anyio.Event()
        host.begin(ONE, "internet")
        await until(lambda: host.gateway.way_of("1" * 24).address)
        with host.socket(ONE, socket.SOCK_DGRAM) as own:
            own.connect(("9.9.9.9", 53))
            own.send(dns.message.make_query("example.com", "A").to_wire())
            async with host.connected(ONE, OTHER, 22) as stream:
                await stream.send(b"hello?")
                await until(host.connections)
                host.taps.hold.set()
                assert await stream.receive() == b"hello?"
            await anyio.wait_readable(own)
            assert said(own.recv(4096)) == [str(SITE)]


async def test_it_listens_at_an_address_that_the_host_does_not_have_yet() -> None:
    with namespace() as host, host.run(lambda: Listener.open(GATEWAY.ip)) as listener:
        tcp, udp = listener.ports
        assert tcp == udp != 0


async def test_a_listener_that_cannot_be_opened_is_an_error_that_names_its_address() -> None:
    with few_files(), pytest.raises(Unavailable, match=r"listen at 127\.0\.0\.1: Too many open files"):
        Listener.open(IPv4Address(LOOPBACK))


async def test_a_listener_can_be_closed_twice() -> None:
    listener = Listener.open(IPv4Address(LOOPBACK))
    listener.close()
    listener.close()
