"""What the kernel forwards for a sandbox by itself, and what not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Network

import anyio
import pytest

from tests.vmm.network.taps.guests import Guest, received, refused
from tests.vmm.network.taps.world import OTHER, PRIVATE, SITE, UPLINK, World
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.network.taps.kernel_log import ALLOWED, REFUSED, KernelLog
from vmm.network.taps.taps import Taps

Guests = Callable[[str], AbstractAsyncContextManager[Guest]]
INTERNET = FastPath(internet=True)
NEIGHBOUR = "10.41.200.200"

pytestmark = pytest.mark.anyio


async def test_the_internet_is_reached_by_every_protocol_from_the_hosts_address(
    taps: Taps, guest: Guests, internet: World
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        assert await one.hears(SITE, 5000) == b"hello"
        assert await one.asks(SITE, 5000) == b"hello"
        assert await one.pings(SITE)
        assert internet.callers == {UPLINK}


@pytest.mark.parametrize("address", [PRIVATE, NEIGHBOUR, UPLINK, "10.41.0.1", "169.254.169.254"])
async def test_with_the_internet_allowed_nothing_that_leads_inwards_is_forwarded(
    taps: Taps, guest: Guests, internet: World, address: str
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        if address == NEIGHBOUR:
            one.own.ip(f"route add {NEIGHBOUR}/32 via {one.nic.gateway} dev eth0 onlink")
        assert await one.hears(address, 80) == f"redirected from {address}:80".encode()
        assert refused(await failure(one, address))
        assert await one.hears(SITE, 5000, b"a sign") == b"a sign"
        assert internet.saw(b"a sign")
        assert internet.callers == {UPLINK}
        assert not internet.saw(b"secret")


async def test_without_a_fast_path_tcp_goes_to_the_server_and_everything_else_is_refused_at_once(
    taps: Taps, guest: Guests, internet: World
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, CLOSED)
        for port in (22, 80, 5000):
            assert await one.hears(SITE, port) == f"redirected from {SITE}:{port}".encode()
        assert refused(await failure(one, SITE))
        with pytest.raises(OSError, match="No route to host") as caught:
            await one.pings(SITE)
        assert refused(caught.value)
        assert internet.callers == set()
        assert not internet.saw(b"secret")


async def test_a_listed_network_is_reached_by_every_protocol_and_its_neighbour_is_not(
    taps: Taps, guest: Guests, internet: World
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, FastPath(networks=(IPv4Network(f"{SITE}/32"),)))
        assert await one.hears(SITE, 443) == b"hello"
        assert await one.asks(SITE, 5000) == b"hello"
        assert await one.pings(SITE)
        assert await one.hears(OTHER, 443) == f"redirected from {OTHER}:443".encode()
        assert refused(await failure(one, OTHER))
        assert internet.callers == {UPLINK}


async def test_listed_ports_limit_listed_networks_to_tcp(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one:
        fast = FastPath(networks=(IPv4Network("198.51.100.0/24"),), ports=(443, 5000))
        await taps.allow(one.nic.address.ip, fast)
        assert await one.hears(SITE, 443) == b"hello"
        assert await one.hears(OTHER, 5000) == b"hello"
        assert await one.hears(SITE, 80) == f"redirected from {SITE}:80".encode()
        assert refused(await failure(one, SITE, port=443))
        assert internet.callers == {UPLINK}


async def test_a_listed_network_that_is_denied_on_the_host_is_not_forwarded(
    taps: Taps, guest: Guests, internet: World
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, FastPath(networks=(IPv4Network("0.0.0.0/0"),)))
        assert await one.hears(SITE, 80) == b"hello"
        assert await one.hears(PRIVATE, 80) == f"redirected from {PRIVATE}:80".encode()
        assert refused(await failure(one, PRIVATE))


async def test_what_one_sandbox_may_another_may_not(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one, guest("b") as two:
        await taps.allow(one.nic.address.ip, INTERNET)
        await taps.allow(two.nic.address.ip, CLOSED)
        assert await one.asks(SITE, 80) == b"hello"
        assert await two.hears(SITE, 80) == f"redirected from {SITE}:80".encode()
        assert refused(await failure(two, SITE))


async def test_a_change_ends_what_is_open(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        with await one.connect(SITE, 5000) as kept, await one.connect(OTHER, 5000) as cut:
            for own in (kept, cut):
                own.send(b"before")
                assert await received(own) == b"before"
            await taps.allow(one.nic.address.ip, FastPath(networks=(IPv4Network(f"{SITE}/32"),)))
            kept.send(b"after")
            assert await received(kept) == b"after"
            cut.send(b"after")
            with pytest.raises(ConnectionResetError):
                await received(cut)


async def test_after_a_change_nothing_comes_in_either(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        with one.socket(socket.SOCK_DGRAM) as own, internet.socket(socket.SOCK_DGRAM) as site:
            site.bind((SITE, 6000))
            own.connect((SITE, 6000))
            own.send(b"asked")
            with anyio.fail_after(60):
                await anyio.wait_readable(site)
            _, caller = site.recvfrom(100)
            site.sendto(b"allowed", caller)
            assert await received(own) == b"allowed"
            await taps.allow(one.nic.address.ip, FastPath(networks=(IPv4Network(f"{OTHER}/32"),)))
            site.sendto(b"not any more", caller)
            assert await one.asks(OTHER, 5000, b"a sign") == b"a sign"
            assert not [frame for frame in one.came if b"not any more" in frame]


async def test_nobody_outside_can_begin_a_connection_to_a_sandbox(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        internet.place.ip(f"route add {one.address}/32 via {UPLINK}")
        with internet.socket(socket.SOCK_DGRAM) as own:
            own.sendto(b"uninvited", (one.address, 5000))
            assert await one.asks(SITE, 5000, b"a sign") == b"a sign"
        assert not [frame for frame in one.came if b"uninvited" in frame]


async def test_open_connections_survive_another_start_of_the_server(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        with await one.connect(SITE, 5000) as own:
            own.send(b"before")
            assert await received(own) == b"before"
            again = await Taps.open(taps.settings, denied=[IPv4Network("10.0.0.0/8")], ports=(14444, 15353))
            own.send(b"meanwhile")
            await again.adopt(one.directory, one.nic)
            await again.allow(one.nic.address.ip, INTERNET)
            assert await received(own) == b"meanwhile"
            await again.release(one.directory)


async def test_what_the_kernel_decides_it_tells(taps: Taps, guest: Guests, internet: World) -> None:
    with KernelLog.open() as log:
        async with guest("a") as one:
            await taps.allow(one.nic.address.ip, FastPath(networks=(IPv4Network(f"{SITE}/32"),)))
            assert await one.asks(SITE, 5000) == b"hello"
            assert await one.asks(SITE, 443) == b"hello"
            assert refused(await failure(one, OTHER))
            assert refused(await failure(one, "10.41.0.1"))
            assert await one.hears(OTHER, 80) == f"redirected from {OTHER}:80".encode()
            events = log.events()
            told = [await anext(events) for _ in range(4)]
            await events.aclose()
    assert [(event.prefix, str(event.destination), event.protocol, event.port) for event in told] == [
        (ALLOWED, SITE, "udp", 5000),
        (ALLOWED, SITE, "udp", 443),
        (REFUSED, OTHER, "udp", 5000),
        (REFUSED, "10.41.0.1", "udp", 5000),
    ]
    assert {str(event.source) for event in told} == {"10.41.0.2"}


async def failure(one: Guest, address: str, port: int = 5000) -> OSError:
    """Ask by UDP, which is to be refused; the error is returned."""
    with pytest.raises(OSError) as caught:
        await one.asks(address, port, b"secret")
    assert caught.value.errno != errno.ETIMEDOUT
    return caught.value
