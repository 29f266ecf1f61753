"""An internet for guests, with names and a web site.

In user mode the servers are on the loopback, and the gateway dials them instead of the public addresses that they stand
for. With taps, the host is a network namespace, and the servers have these addresses in another one behind it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address

import anyio
from anyio.abc import ByteStream, Listener, SocketListener, SocketStream, TaskGroup

from tests.vmm.network.name_server import LOOPBACK, NameServer, name_server
from tests.vmm.tapped_host import TappedHost
from vmm.network.gateway import Gateway
from vmm.network.policy import Policy
from vmm.network.resolver import Resolver
from vmm.network.rules import HostRules
from vmm.network.tcp import dial
from vmm.network.upstream import Server, Upstream

SITE, SHARED, OTHER = "198.51.100.7", "198.51.100.8", "198.51.100.9"
PRIVATE, METADATA = "10.0.0.7", "169.254.169.254"
"""Where no sandbox may come, though there is a way."""

Handle = Callable[[SocketStream], Awaitable[None]]


class World:
    """Where sandboxes may connect to.

    Attributes:
        names: The name server that the gateway asks.
        servers: Gives the addresses and ports of the name servers that it asks, if a test has others.
        reached: The addresses and ports that were connected to.
        host: The host with taps; None in user mode.

    Args:
        names: The same.
        tasks: Runs the servers.
        host: The same.
    """

    def __init__(self, names: NameServer, tasks: TaskGroup, host: TappedHost | None = None) -> None:
        self.names = names
        self.servers = names.servers
        self.reached: list[tuple[str, int]] = []
        self.host = host
        self._tasks = tasks
        self._ports: dict[tuple[str, int], int] = {}
        self._listeners: list[Listener[SocketStream]] = []

    async def serve(self, address: str, port: int, handle: Handle) -> None:
        """Let a server answer at a public address; its connections may end at any time."""

        async def guarded(stream: SocketStream) -> None:
            self.reached.append((address, port))
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await handle(stream)

        opened = self.listening(address, port)
        opened.setblocking(False)
        listener = await SocketListener.from_socket(opened)
        self._listeners.append(listener)
        self._tasks.start_soon(listener.serve, guarded)

    def listening(self, address: str, port: int) -> socket.socket:
        """Listen at a public address, for a server that is another program; the caller closes the socket."""
        if self.host is not None:
            return self.host.internet.run(lambda: socket.create_server((address, port)))
        made = socket.create_server((LOOPBACK, 0))
        self._ports[address, port] = made.getsockname()[1]
        return made

    def echo_datagrams(self, host: TappedHost, address: str, port: int) -> None:
        """Let a server send back what comes by UDP."""
        opened = host.internet.run(lambda: socket.socket(type=socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        opened.bind((address, port))

        async def echoes() -> None:
            with opened:
                while True:
                    await anyio.wait_readable(opened)
                    data, source = opened.recvfrom(65536)
                    opened.sendto(data, source)

        self._tasks.start_soon(echoes)

    async def connect(self, address: IPv4Address, port: int) -> ByteStream:
        """Connect to the server there; nobody else answers."""
        if self.host is not None:
            return await dial(address, port)
        if (str(address), port) not in self._ports:
            raise ConnectionRefusedError
        return await dial(IPv4Address(LOOPBACK), self._ports[str(address), port])

    async def aclose(self) -> None:
        """End all servers."""
        for listener in self._listeners:
            await listener.aclose()

    def gateway(self, default: str = "internet", packages: tuple[str, ...] = ()) -> Gateway:
        """Make the way of a fleet's sandboxes into this world; the name servers may change later."""
        made = Gateway(
            default=Policy.parse(default),
            host=lambda: HostRules(packages=packages),
            clock=lambda: time.time_ns() // 1_000_000,
            resolver=Resolver(Upstream(self._asked)),
            connect=self.connect,
            taps=self.host and self.host.taps,
        )
        if self.host is not None:
            self._tasks.start_soon(made.serve_taps, self.host.listener, self.host.kernel)
        return made

    def _asked(self) -> tuple[Server, ...]:
        return self.servers()


@asynccontextmanager
async def world(host: TappedHost | None = None) -> AsyncGenerator[World]:
    """A world with a web site, www.example.com, and names of others, for the length of a block."""
    tasks = anyio.create_task_group()
    async with name_server() as names:
        made = World(names, tasks, host)
        names.add(
            f"www.example.com. 60 IN A {SITE}",
            f"one.example.org. 60 IN A {SHARED}",
            f"two.example.org. 60 IN A {SHARED}",
            "inside.example.com. 60 IN A 10.0.0.7",
            "metadata.example.com. 60 IN A 169.254.169.254",
        )
        async with tasks:
            await made.serve(SITE, 80, page)
            await made.serve(SHARED, 80, page)
            await made.serve(OTHER, 7, echo)
            yield made
            tasks.cancel_scope.cancel()
        await made.aclose()


async def page(stream: SocketStream) -> None:
    """Answer one request over HTTP with the host that it named."""
    async with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        host = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"host:"))
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(host), host))
        await stream.send_eof()


async def echo(stream: SocketStream) -> None:
    """Send back what comes."""
    async with stream:
        async for piece in stream:
            await stream.send(piece)
