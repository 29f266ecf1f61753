"""A sandbox with a tap: decided as in user mode, by the same engine, and what the kernel may forward beside it."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import anyio
import pytest

from tests.vmm.network.hellos import hello
from tests.vmm.network.programs import echo, serving
from tests.vmm.network.taps.namespaces import lacking
from tests.vmm.network.taps.tap_host import FORWARDED, ONE, OTHER, SANDBOXES, SITE, TapHost, tap_host
from tests.waiting import PATIENCE_S, until
from vmm.errors import Unavailable
from vmm.network.explain import refusals
from vmm.network.gateway import WayOut
from vmm.network.policy import Policy
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.network.tcp import TcpStream

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(lacking()), reason=f"No namespaces with rules: {lacking()}")]

REQUEST = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"
INTERNET = FastPath(internet=True)


@asynccontextmanager
async def serving_one(network: str) -> AsyncGenerator[TapHost]:
    """A host whose guest ONE has a policy, and an internet that echoes."""
    async with serving(echo) as port, tap_host(22, 80, 443, world=port) as host:
        with anyio.fail_after(PATIENCE_S):
            await host.serve(ONE, network)
            yield host


async def answers(stream: TcpStream, said: bytes = b"hello?") -> bool:
    await stream.send(said)
    received = b""
    while len(received) < len(said):
        received += await stream.receive()
    return received == said


async def is_lost(stream: TcpStream) -> bool:
    try:
        await stream.receive()
    except anyio.BrokenResourceError:
        return True
    return False


@pytest.mark.parametrize(
    ("network", "fast"),
    [
        ("none", CLOSED),
        ("internet", INTERNET),
        ("learn", CLOSED),
        ("example.com", CLOSED),
        ("example.com,443/tcp", CLOSED),
        ("example.com,192.0.2.0/24", FastPath(networks=(IPv4Network("192.0.2.0/24"),))),
        ("192.0.2.1,443/tcp", FastPath(networks=(IPv4Network("192.0.2.1/32"),), ports=(443,))),
        ("packages", FastPath(networks=(IPv4Network("198.51.100.0/24"),))),
        ("a policy of a later release", CLOSED),
    ],
)
async def test_the_kernel_forwards_what_no_name_decides_about(network: str, fast: FastPath) -> None:
    async with serving_one(network) as host:
        assert host.taps.told == [(ONE, fast)]
        assert host.gateway.way_of(SANDBOXES[ONE]) == WayOut(kind="taps", address=ONE)
        await host.end(ONE)
        assert host.taps.now(ONE) == CLOSED


async def test_a_policy_is_in_force_once_the_kernel_has_taken_it() -> None:
    async with tap_host() as host:
        host.taps.hold = anyio.Event()
        host.begin(ONE, "internet")
        await until(lambda: host.gateway.way_of(SANDBOXES[ONE]).address == ONE)
        assert not host.in_force[ONE].is_set()
        host.taps.hold.set()
        await until(host.in_force[ONE].is_set)
        assert host.taps.told == [(ONE, INTERNET)]


async def test_the_internet_is_reached_by_any_name_and_nothing_that_leads_inwards() -> None:
    async with serving_one("internet") as host:
        for address, first in ((SITE, hello("example.net")), (OTHER, b"anything")):
            async with host.connected(ONE, address, 443) as stream:
                assert await answers(stream, first)
        for address in ("10.0.0.7", "169.254.169.254", "192.168.1.1"):
            assert await host.is_reset(ONE, IPv4Address(address), 80)
        assert host.world.dialled == [(str(SITE), 443), (str(OTHER), 443)]


async def test_none_reaches_nothing_and_says_how_to_change_that() -> None:
    async with serving_one("none") as host:
        assert await host.is_reset(ONE, SITE, 443, hello("example.com"))
        assert host.world.dialled == []
        assert refusals(host.log(ONE).since(0), Policy.parse("none")) == (
            f'[network: refused {SITE}:443 by policy "none"; to allow: update_sandbox(network=...)]'
        )


async def test_a_listed_name_opens_its_addresses_and_no_neighbour_on_them() -> None:
    async with serving_one("example.com") as host:
        assert await host.is_reset(ONE, SITE, 443, hello("example.com"))  # nobody was told its address yet
        assert await host.answered(ONE, "example.com") == [str(SITE)]
        async with host.connected(ONE, SITE, 443) as stream:
            assert await answers(stream, hello("example.com"))
        async with host.connected(ONE, SITE, 80) as stream:
            assert await answers(stream, REQUEST % b"example.com")
        async with host.connected(ONE, SITE, 22) as stream:
            assert await answers(stream)
        assert await host.is_reset(ONE, SITE, 443, hello("example.org"))
        assert await host.is_reset(ONE, SITE, 80, REQUEST % b"example.org")
        assert await host.is_reset(ONE, OTHER, 22)
        assert host.events(ONE) == [
            (False, f"{SITE}:443", 'policy "allow"'),
            (True, "example.com:443", ""),
            (True, "example.com:80", ""),
            (True, "example.com:22", ""),
            (False, "example.org:443", 'policy "allow"'),
            (False, "example.org:80", 'policy "allow"'),
            (False, f"{OTHER}:22", 'policy "allow"'),
        ]


async def test_what_was_learnt_is_a_list_with_the_names() -> None:
    async with serving_one("learn") as host:
        await host.answered(ONE, "example.com")
        async with host.connected(ONE, SITE, 443) as stream:
            assert await answers(stream, hello("example.com"))
        assert await host.log(ONE).suggestion() == "example.com,443/tcp"


async def test_a_program_that_sends_garbage_where_a_name_is_needed_is_reset() -> None:
    async with serving_one("example.com") as host:
        await host.answered(ONE, "example.com")
        assert await host.is_reset(ONE, SITE, 443, b"SSH-2.0-example\r\n")
        assert "needs a name in Host or SNI" in host.events(ONE)[-1][2]


async def test_programs_that_say_nothing_hold_up_nobody_and_end_with_their_sandbox() -> None:
    async with serving_one("example.com") as host:
        await host.answered(ONE, "example.com")
        async with host.connected(ONE, SITE, 443) as silent, host.connected(ONE, SITE, 22) as stream:
            assert await answers(stream)
            await host.end(ONE)
            assert await is_lost(silent)
            assert await is_lost(stream)
        assert host.connections() == 0


async def test_a_change_is_in_force_when_it_returns_for_open_connections_too() -> None:
    async with serving_one("internet") as host:
        await host.answered(ONE, "example.com")
        async with host.connected(ONE, SITE, 22) as kept, host.connected(ONE, OTHER, 22) as ended:
            assert await answers(kept)
            assert await answers(ended)
            await host.change(ONE, "example.com")
            assert host.taps.now(ONE) == CLOSED
            assert host.events(ONE)[-1] == (False, f"{OTHER}:22", 'policy "allow"')
            assert await is_lost(ended)
            assert await answers(kept)
            await host.change(ONE, "192.0.2.0/24")
            assert host.taps.now(ONE) == FastPath(networks=(IPv4Network("192.0.2.0/24"),))
            assert await is_lost(kept)


async def test_a_change_that_the_kernel_does_not_take_changes_nothing() -> None:
    async with serving_one("example.com") as host:
        await host.answered(ONE, "example.com")
        async with host.connected(ONE, SITE, 22) as stream:
            for network in ("internet", "none", "192.0.2.1"):
                host.taps.failing = [Unavailable("nft failed")]
                with pytest.raises(Unavailable, match="nft failed"):
                    await host.change(ONE, network)
                # It may have taken it nevertheless, so it is told again what there was before.
                assert host.taps.told[-1] == (ONE, CLOSED)
            assert await answers(stream)
            assert await host.is_reset(ONE, OTHER, 22)
            await host.change(ONE, "none")
            assert await is_lost(stream)


async def test_what_the_kernel_refuses_is_explained_by_the_name_that_the_sandbox_was_told() -> None:
    async with serving_one("example.com") as host:
        await host.answered(ONE, "example.com")
        with host.socket(ONE, socket.SOCK_DGRAM) as own:
            for address in (SITE, OTHER):
                own.connect((str(address), 443))
                own.send(b"x")
                with pytest.raises(OSError, match="No route to host"):
                    await received(own)
        await until(lambda: host.log(ONE).refused == 2)
        assert refusals(host.log(ONE).since(0), Policy.parse("example.com")).splitlines() == [
            '[network: refused example.com:443/udp by policy "allow", whose names open TCP only; '
            "to allow: update_sandbox(network=...)]",
            f'[network: refused {OTHER}:443/udp by policy "allow"; to allow: update_sandbox(network=...)]',
        ]


async def test_what_the_kernel_forwards_is_recorded_and_suggested_by_its_address() -> None:
    async with serving_one("internet") as host:
        host.names.add(f"time.example.net. 60 IN A {FORWARDED}")
        await host.answered(ONE, "time.example.net")
        with host.socket(ONE, socket.SOCK_DGRAM) as own:
            own.sendto(b"x", (str(FORWARDED), 123))
            await until(lambda: host.log(ONE).allowed)
        assert host.events(ONE) == [(True, "time.example.net:123/udp", "")]
        assert await host.log(ONE).suggestion() == f"time.example.net,{FORWARDED}"


async def received(own: socket.socket) -> bytes:
    await anyio.wait_readable(own)
    return own.recv(4096)
