"""What comes to the server, and what of the host a sandbox reaches besides: nothing."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from ipaddress import IPv4Network

import pytest

from tests.vmm.network.taps import frames
from tests.vmm.network.taps.conftest import PORTS
from tests.vmm.network.taps.guests import Guest, received, refused
from tests.vmm.network.taps.world import OTHER, SITE, UPLINK, World
from vmm.network.taps import ruleset
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.network.taps.taps import Taps

Guests = Callable[[str], AbstractAsyncContextManager[Guest]]
INTERNET = FastPath(internet=True)
GATEWAY = "10.41.0.1"

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fast", [CLOSED, INTERNET, FastPath(networks=(IPv4Network("198.51.100.0/24"),))])
async def test_dns_goes_to_the_server_whatever_is_asked(
    taps: Taps, guest: Guests, internet: World, fast: FastPath
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, fast)
        for server in (GATEWAY, SITE, OTHER, "10.9.9.9", UPLINK):
            assert await one.asks(server, 53) == b"resolver"
            assert await one.hears(server, 53) == f"redirected from {server}:53".encode()
        assert internet.callers == set()


@pytest.mark.parametrize("address", [GATEWAY, UPLINK])
@pytest.mark.parametrize("fast", [CLOSED, INTERNET])
async def test_no_port_of_the_host_is_reached(
    taps: Taps, guest: Guests, internet: World, address: str, fast: FastPath
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, fast)
        with ExitStack() as stack:
            tcp, udp = (
                stack.enter_context(socket.socket(type=kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            )
            for own in (tcp, udp):
                own.setblocking(False)
                own.bind(("", 7777))
            tcp.listen()
            assert await one.hears(address, 7777) == f"redirected from {address}:7777".encode()
            with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)) as caught:
                await one.asks(address, 7777)
            assert refused(caught.value)
            with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)):
                await one.pings(address)
            for own in (tcp.accept, lambda: udp.recv(1)):
                with pytest.raises(BlockingIOError):
                    own()


async def test_the_servers_own_ports_are_only_reached_by_redirection(taps: Taps, guest: Guests) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, CLOSED)
        with pytest.raises(ConnectionRefusedError):
            await one.connect(GATEWAY, PORTS[0])
        with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)):
            await one.asks(GATEWAY, PORTS[1])
        assert await one.hears(GATEWAY, PORTS[1]) == f"redirected from {GATEWAY}:{PORTS[1]}".encode()


async def test_connections_beyond_the_limit_are_refused_and_those_of_others_are_not(
    taps: Taps, guest: Guests, internet: World
) -> None:
    async with guest("a") as one, guest("b") as two:
        for found in (one, two):
            await taps.allow(found.nic.address.ip, INTERNET)
        with await one.connect(SITE, 5000) as early:
            for port in range(20000, 20000 + ruleset.MOST_CONNECTIONS):
                one.send(frames.udp(one.address, SITE, 5000, b"x", own=port))
            with pytest.raises(ConnectionRefusedError):
                await one.connect(SITE, 5000)
            with pytest.raises(ConnectionRefusedError):
                await one.connect(GATEWAY, 22)
            with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)):
                await one.asks(SITE, 5000)
            early.send(b"what is open goes on")
            assert await two.hears(SITE, 5000) == b"hello"
            assert await received(early) == b"what is open goes on"


async def test_a_flood_of_queries_fills_no_queue_of_others(taps: Taps, guest: Guests) -> None:
    async with guest("a") as one, guest("b") as two:
        for found in (one, two):
            await taps.allow(found.nic.address.ip, CLOSED)
        for _ in range(20 * ruleset.MOST_QUERIES):
            one.send(frames.udp(one.address, GATEWAY, 53, b"x"))
        # What came before this one was answered before it.
        assert await two.asks(GATEWAY, 53) == b"resolver"
        answered = sum(b"resolver" in frame for frame in one.came)
        assert answered < 10 * ruleset.MOST_QUERIES
