"""A sandbox sends as itself or not at all, and sees nothing of its neighbours."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.vmm.network.taps import frames
from tests.vmm.network.taps.guests import Guest
from tests.vmm.network.taps.namespaces import Namespace
from tests.vmm.network.taps.world import SITE, Sniffer, World, sniffer
from vmm.network.taps import bridge
from vmm.network.taps.fast_path import FastPath
from vmm.network.taps.taps import Taps

Guests = Callable[[str], AbstractAsyncContextManager[Guest]]
OTHER_MAC, UNUSED, SECRET = "02:00:0a:29:c8:c8", "10.41.200.200", b"forged"
INTERNET = FastPath(internet=True)

pytestmark = pytest.mark.anyio


Forged = Callable[[Guest, Guest], None]

FORGED: dict[str, Forged] = {
    "with a MAC of nobody": lambda one, _: one.send(datagram(one.address), source=OTHER_MAC),
    "with a neighbour's MAC": lambda one, two: one.send(datagram(one.address), source=two.nic.mac),
    "with the bridge's MAC": lambda one, _: one.send(datagram(one.address), source=bridge.MAC),
    "with an address of nobody": lambda one, _: one.send(datagram(UNUSED)),
    "with a neighbour's address": lambda one, two: one.send(datagram(two.address)),
    "with the gateway's address": lambda one, _: one.send(datagram("10.41.0.1")),
    "with an address of the world": lambda one, _: one.send(datagram(SITE)),
    "with no address yet": lambda one, _: one.send(datagram(str(IPv4Address(0))), to=frames.BROADCAST),
    "with a neighbour's MAC and address": lambda one, two: one.send(datagram(two.address), source=two.nic.mac),
    "in a VLAN": lambda one, _: one.send(datagram(one.address), vlan=7),
    "in a VLAN without a number": lambda one, _: one.send(datagram(one.address), vlan=0),
    "of IPv6": lambda one, _: one.send(b"\x60" + bytes(39) + SECRET, frames.IPV6),
    "of IPv6 to all": lambda one, _: one.send(b"\x60" + bytes(39) + SECRET, frames.IPV6, to="33:33:00:00:00:01"),
    "of another protocol": lambda one, _: one.send(SECRET, 0x88B5),
    "of the spanning tree": lambda one, _: one.send(SECRET, 0x0026, to="01:80:c2:00:00:00"),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_frame_reaches_nobody(taps: Taps, guest: Guests, host: Namespace, internet: World, kind: str) -> None:
    async with guest("a") as one, guest("b") as two:
        await both(taps, one, two)
        with on_the_bridge(host) as seen:
            FORGED[kind](one, two)
            assert await one.asks(SITE, 5000, b"honest") == b"honest"
            assert any(b"honest" in frame for frame in seen.frames)
            assert internet.saw(b"honest")
            for place in (seen.frames, internet.arrived.frames, two.came):
                assert not [frame for frame in place if SECRET in frame]


@pytest.mark.parametrize("operation", [1, 2])
async def test_arp_is_only_for_the_own_address(taps: Taps, guest: Guests, host: Namespace, operation: int) -> None:
    async with guest("a") as one, guest("b") as two:
        await both(taps, one, two)
        with on_the_bridge(host) as seen:
            for mac, address in ((one.nic.mac, two.address), (two.nic.mac, one.address), (OTHER_MAC, "10.41.0.1")):
                for to in (frames.BROADCAST, bridge.MAC):
                    one.send(frames.arp(operation, mac, address, "10.41.0.1"), frames.ARP, to=to)
                    one.send(frames.arp(operation, mac, address, "10.41.0.1"), frames.ARP, to=to, source=mac)
            assert await one.asks("10.41.0.1", 53) == b"resolver"
            assert await two.asks("10.41.0.1", 53) == b"resolver"
            senders = {frame[22:32] for frame in seen.frames if frame[12:14] == b"\x08\x06"}
            assert senders <= {frames.arp(1, found.nic.mac, found.address, "10.41.0.1")[8:18] for found in (one, two)}
        known = {entry.split()[0]: entry for entry in neighbours(host)}
        assert one.nic.mac in known[one.address]
        assert two.nic.mac in known[two.address]


async def test_the_gateway_answers_for_itself_alone(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        for asked in ("203.0.113.2", UNUSED, "10.41.0.1"):
            one.send(frames.arp(1, one.nic.mac, one.address, asked), frames.ARP, to=frames.BROADCAST)
        assert await one.asks("10.41.0.1", 53) == b"resolver"
        answers = [frame[28:32] for frame in one.came if frame[12:14] == b"\x08\x06" and frame[21] == 2]
        assert set(answers) == {socket.inet_aton("10.41.0.1")}


@pytest.mark.parametrize("called", ["0", "1"])
@pytest.mark.parametrize("to", ["its neighbour", "all", "the gateway"])
async def test_no_frame_of_a_sandbox_reaches_another(
    taps: Taps, guest: Guests, host: Namespace, to: str, called: str
) -> None:
    # Whether the rules of `table ip` see what the bridge would carry from one to the other: nothing may depend on it.
    if host.run(Path("/proc/sys/net/bridge").exists):
        host.write("bridge/bridge-nf-call-iptables", called)
    async with guest("a") as one, guest("b") as two:
        await both(taps, one, two)
        mac = {"its neighbour": two.nic.mac, "all": frames.BROADCAST, "the gateway": bridge.MAC}[to]
        for address in (two.address, "10.41.255.255", "255.255.255.255", "224.0.0.1"):
            one.send(frames.udp(one.address, address, 5000, SECRET), to=mac)
            one.send(frames.tcp_syn(one.address, address, 5000), to=mac)
            one.send(frames.icmp_echo(one.address, address), to=mac)
        for asked in (two.address, "10.41.0.1"):
            one.send(frames.arp(1, one.nic.mac, one.address, asked), frames.ARP, to=mac)
        assert await one.asks("10.41.0.1", 53) == b"resolver"
        assert await two.asks("10.41.0.1", 53) == b"resolver"
        assert not [frame for frame in two.came if raw(one.nic.mac) in frame or socket.inet_aton(one.address) in frame]


async def test_what_is_for_a_machine_that_has_died_no_other_sees(
    taps: Taps, guest: Guests, host: Namespace, tmp_path: Path
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        async with taps.attached(tmp_path / "b") as (died, _):
            await taps.allow(died.address.ip, INTERNET)
        with socket.socket(type=socket.SOCK_DGRAM) as own:
            own.sendto(SECRET, (str(died.address.ip), 5000))
        assert await one.asks("10.41.0.1", 53) == b"resolver"
        assert not [frame for frame in one.came if SECRET in frame]
        await taps.release(tmp_path / "b")


async def test_what_the_host_sends_one_sandbox_no_other_sees(taps: Taps, guest: Guests, internet: World) -> None:
    async with guest("a") as one, guest("b") as two:
        await both(taps, one, two)
        assert await one.asks(SITE, 5000, b"for one") == b"for one"
        assert await two.asks(SITE, 5000, b"for two") == b"for two"
        assert not [frame for frame in two.came if frame[:6] != raw(two.nic.mac) or b"for one" in frame]
        assert not [frame for frame in one.came if frame[:6] != raw(one.nic.mac) or b"for two" in frame]


@pytest.mark.parametrize("to", ["10.41.255.255", "224.0.0.251"])
async def test_what_the_host_tells_all_its_neighbours_no_sandbox_hears(taps: Taps, guest: Guests, to: str) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        with socket.socket(type=socket.SOCK_DGRAM) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.41.0.1"))
            own.sendto(SECRET, (to, 5353))
        assert await one.asks("10.41.0.1", 53) == b"resolver"
        assert not [frame for frame in one.came if SECRET in frame or frame[0] & 1]


async def test_before_a_policy_is_known_nothing_passes(taps: Taps, guest: Guests, host: Namespace) -> None:
    async with guest("a") as one, guest("b") as two:
        await taps.allow(two.nic.address.ip, INTERNET)
        with on_the_bridge(host) as seen:
            one.send(datagram(one.address))
            assert await two.asks("10.41.0.1", 53) == b"resolver"
            assert not [frame for frame in seen.frames if SECRET in frame]


def datagram(source: str) -> bytes:
    return frames.udp(source, SITE, 5000, SECRET)


async def both(taps: Taps, one: Guest, two: Guest) -> None:
    for found in (one, two):
        await taps.allow(found.nic.address.ip, INTERNET)


@contextmanager
def on_the_bridge(host: Namespace) -> Generator[Sniffer]:
    with sniffer("casemate0", host.run) as seen:
        yield seen


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def neighbours(host: Namespace) -> list[str]:
    shown = host.run(lambda: subprocess.run(["ip", "neigh"], capture_output=True, text=True, check=True).stdout)
    return shown.splitlines()
