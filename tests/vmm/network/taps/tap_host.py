"""A host with taps in a namespace of its own, and guests in another: real packets, real rules, and the real gateway.

The rules are a few of those that a host has: enough to redirect to the listener and to log. What the gateway lets the
kernel forward is only recorded. The internet is on the loopback outside, and no packet leaves for it but through there.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface
from operator import attrgetter
from typing import cast

import anyio
import dns.message
import dns.rcode
from anyio.abc import TaskGroup

from tests.vmm.network.name_server import NameServer, name_server
from tests.vmm.network.programs import World
from tests.vmm.network.taps.namespaces import Namespace, namespace
from tests.waiting import until
from vmm.guest.link import GuestLink
from vmm.hypervisor.nic import Nic
from vmm.network.gateway import Gateway
from vmm.network.log import NetworkLog
from vmm.network.policy import Policy
from vmm.network.resolver import Resolver
from vmm.network.rules import HostRules
from vmm.network.taps.fast_path import FastPath
from vmm.network.taps.kernel_log import GROUP, KernelLog
from vmm.network.taps.listener import Listener
from vmm.network.taps.tap_way import TapWay
from vmm.network.tcp import TcpStream
from vmm.network.upstream import Upstream
from vmm.network.way import Way

GATEWAY = IPv4Interface("10.41.0.1/16")
ONE, TWO, STRANGER = (IPv4Address(f"10.41.0.{number}") for number in (2, 3, 9))
SANDBOXES = {ONE: "1" * 24, TWO: "2" * 24}
SITE, OTHER = IPv4Address("198.51.100.10"), IPv4Address("192.0.2.1")
FORWARDED = IPv4Address("203.0.113.7")
"""What the rules forward, to nobody."""

_RULES = """
table ip taps {{
  chain arriving {{
    type nat hook prerouting priority dstnat;
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{port}
    ip daddr {forwarded} accept
    ip daddr {gateway} tcp dport {port} accept
    meta l4proto tcp redirect to :{port}
  }}
  chain forwarded {{
    type filter hook forward priority filter;
    iifname != "guests" drop
    ip daddr {forwarded} ct state new log prefix "allowed" group {group}
    ip daddr {forwarded} accept
    log prefix "refused" group {group}
    reject with icmp admin-prohibited
  }}
}}
"""


class RecordedTaps:
    """What the kernel is told to forward, which no kernel can refuse on command.

    Attributes:
        told: All of it, in order.
        failing: Raised instead, one after the other; then it works again.
        hold: Nothing is taken before this is set.
    """

    def __init__(self) -> None:
        self.told: list[tuple[IPv4Address, FastPath]] = []
        self.failing: list[Exception] = []
        self.hold = anyio.Event()
        self.hold.set()

    def __len__(self) -> int:
        """Count the machines that have one: as at a server's start, and no reason to do without."""
        return 0

    async def allow(self, address: IPv4Address, fast: FastPath) -> None:
        await self.hold.wait()
        if self.failing:
            raise self.failing.pop(0)
        self.told.append((address, fast))

    def now(self, address: IPv4Address) -> FastPath:
        """What is forwarded for a sandbox."""
        return next((fast for told, fast in reversed(self.told) if told == address), FastPath())


class TapHost:
    """The host and its guests.

    Attributes:
        gateway: Decides.
        listener: Takes what is redirected to the gateway.
        names: The name server that the gateway asks.
        taps: What the kernel is told.
        world: What is dialled.
        in_force: Set once a sandbox's first policy is, by its address.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        guests: Namespace,
        gateway: Gateway,
        listener: Listener,
        names: NameServer,
        taps: RecordedTaps,
        world: World,
    ) -> None:
        self.gateway = gateway
        self.listener = listener
        self.names = names
        self.taps = taps
        self.world = world
        self._tasks = tasks
        self._guests = guests
        self.in_force: dict[IPv4Address, anyio.Event] = {}
        self._scopes: dict[IPv4Address, anyio.CancelScope] = {}

    async def serve(self, address: IPv4Address, network: str) -> None:
        """Let a sandbox with an address have a policy, from when that is in force."""
        self.begin(address, network)
        await until(self.in_force[address].is_set)

    def begin(self, address: IPv4Address, network: str) -> None:
        """Begin to serve a sandbox."""
        self._scopes[address] = scope = anyio.CancelScope()
        self.in_force[address] = in_force = anyio.Event()
        mac = ":".join(f"{byte:02x}" for byte in (2, 0, *address.packed))
        nic = Nic(mac=mac, address=IPv4Interface((address, 16)), gateway=GATEWAY.ip)

        async def text() -> str:
            return network

        async def run() -> None:
            with scope:
                await self.gateway.serve(SANDBOXES[address], text, cast("GuestLink", None), nic, in_force.set)

        self._tasks.start_soon(run)

    async def end(self, address: IPv4Address) -> None:
        """End a sandbox."""
        self._scopes.pop(address).cancel()
        await until(lambda: self.gateway.way_of(SANDBOXES[address]).address is None)

    async def change(self, address: IPv4Address, network: str) -> None:
        """Give a sandbox another policy."""
        await self.gateway.changed(SANDBOXES[address], network)

    def connections(self) -> int:
        """Count what is carried for all sandboxes, or on its way to be."""
        return sum(len(way.connections) for way in self._ways())

    def queries(self) -> int:
        """Count what is answered for all sandboxes, or waits for it."""
        return sum(len(way.queries) for way in self._ways())

    def log(self, address: IPv4Address) -> NetworkLog:
        """Return what a sandbox connected to."""
        return self.gateway.log(SANDBOXES[address])

    def events(self, address: IPv4Address) -> list[tuple[bool, str, str]]:
        """Return whether, where to and why not, for each event of a sandbox."""
        return [(event.allowed, event.destination, event.reason) for event in self.log(address).last(100)]

    def socket(self, source: IPv4Address, kind: socket.SocketKind) -> socket.socket:
        """Make a socket of a guest, which does not block."""

        def made() -> socket.socket:
            own = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
            own.bind((str(source), 0))
            return own

        return self._guests.run(made)

    @asynccontextmanager
    async def connected(self, source: IPv4Address, address: IPv4Address, port: int) -> AsyncGenerator[TcpStream]:
        """A program in a guest that connects.

        Raises:
            ConnectionRefusedError: That was answered with a reset.
        """
        own = self.socket(source, socket.SOCK_STREAM)
        stream = TcpStream(own)
        try:
            code = own.connect_ex((str(address), port))
            if code == errno.EINPROGRESS:
                await anyio.wait_writable(own)
                code = own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == errno.ECONNREFUSED:
                raise ConnectionRefusedError
            yield stream
        finally:
            await anyio.aclose_forcefully(stream)

    async def is_reset(self, source: IPv4Address, address: IPv4Address, port: int, first: bytes = b"") -> bool:
        """Connect, send something, and tell whether the end is a reset."""
        async with self.connected(source, address, port) as stream:
            try:
                if first:
                    await stream.send(first)
                while True:
                    await stream.receive()
            except anyio.BrokenResourceError:
                return True
            except anyio.EndOfStream:
                return False

    async def answered(self, source: IPv4Address, name: str, server: str = "9.9.9.9") -> list[str]:
        """Ask for a name over UDP as a program does; the addresses, or the kind of refusal."""
        query = dns.message.make_query(name, "A")
        own = self.socket(source, socket.SOCK_DGRAM)
        with own:
            own.connect((server, 53))  # so that only an answer of that server is received
            own.send(query.to_wire())
            await anyio.wait_readable(own)
            return said(own.recv(4096))

    async def answered_by_tcp(self, source: IPv4Address, name: str, server: str = "9.9.9.9") -> list[str]:
        """Ask for a name over TCP; likewise."""
        query = dns.message.make_query(name, "A").to_wire()
        async with self.connected(source, IPv4Address(server), 53) as stream:
            await stream.send(struct.pack("!H", len(query)) + query)
            await stream.send_eof()
            received = b""
            while True:
                try:
                    received += await stream.receive()
                except anyio.EndOfStream:
                    return said(received[2:])

    def _ways(self) -> Iterable[Way]:
        served: dict[str, TapWay] = attrgetter("_ways")(self.gateway)
        return [way.way for way in served.values()]


@asynccontextmanager
async def tap_host(*ports: int, world: int = 0, limit: int = 0) -> AsyncGenerator[TapHost]:
    """A host, for the length of a block.

    Args:
        ports: Those of the internet's servers.
        world: The port on the loopback of the server that stands for all of them.
        limit: Connections of all sandboxes at once; 0 is many.
    """
    with namespace() as host, namespace() as guests:
        _wire(host, guests)
        with host.run(lambda: Listener.open(GATEWAY.ip)) as listener, host.run(KernelLog.open) as kernel:
            rules = _RULES.format(port=listener.ports[0], gateway=GATEWAY.ip, forwarded=FORWARDED, group=GROUP)
            host.nft(rules)
            taps, internet = RecordedTaps(), World(dict.fromkeys(ports, world))
            async with name_server() as names, anyio.create_task_group() as tasks:
                names.add(f"example.com. 60 IN A {SITE}", f"example.org. 60 IN A {SITE}", f"away.net. 60 IN A {OTHER}")
                gateway = Gateway(
                    default=Policy.parse("none"),
                    host=lambda: HostRules(packages=("example.org", "198.51.100.0/24"), own=(GATEWAY.ip,)),
                    clock=lambda: 0,
                    resolver=Resolver(Upstream(names.servers)),
                    connect=internet.connect,
                    limit=limit,
                    taps=taps,
                )
                tasks.start_soon(gateway.serve_taps, listener, kernel)
                yield TapHost(tasks, guests, gateway, listener, names, taps, internet)
                tasks.cancel_scope.cancel()


def said(answer: bytes) -> list[str]:
    """Read the addresses of an answer, or why there are none."""
    message = dns.message.from_wire(answer)
    if message.rcode() != dns.rcode.NOERROR:
        return [dns.rcode.to_text(message.rcode())]
    return [text.split()[-1] for record in message.answer for text in record.to_text().splitlines()]


def _wire(host: Namespace, guests: Namespace) -> None:
    """Connect both, and let the host forward to a device behind which nobody is."""
    host.ip(
        "link add guests type veth peer name host",
        f"link set host netns {guests.path}",
        f"addr add {GATEWAY} dev guests",
        "link set guests up",
        "link add world type veth peer name nobody",
        "link set nobody up",
        "link set world up",
        "addr add 203.0.113.1/24 dev world",
        "route add default via 203.0.113.254",
    )
    guests.ip(
        *(f"addr add {address}/16 dev host" for address in (ONE, TWO, STRANGER)),
        "link set host up",
        f"route add default via {GATEWAY.ip}",
    )
    host.write("ipv4/ip_forward", "1")
