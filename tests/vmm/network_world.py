"""An internet for guests: servers of a test on the loopback, by the public addresses and names that they stand for."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

from tests.vmm.network.name_server import LOOPBACK, NameServer, name_server
from vmm.network.gateway import Gateway
from vmm.network.policy import Policy
from vmm.network.resolver import Resolver
from vmm.network.rules import HostRules
from vmm.network.tcp import dial
from vmm.network.upstream import Upstream

SITE, SHARED, OTHER = "198.51.100.7", "198.51.100.8", "198.51.100.9"

Handle = Callable[[SocketStream], Awaitable[None]]


class World:
    """Where sandboxes may connect to.

    Attributes:
        names: The name server that the gateway asks.
        dialled: The addresses and ports that were connected to.
    """

    def __init__(self, names: NameServer, tasks: TaskGroup) -> None:
        self.names = names
        self.dialled: list[tuple[str, int]] = []
        self._tasks = tasks
        self._ports: dict[tuple[str, int], int] = {}
        self._listeners: list[MultiListener[SocketStream]] = []

    async def serve(self, address: str, port: int, handle: Handle) -> None:
        """Let a server answer at a public address; its connections may end at any time."""

        async def guarded(stream: SocketStream) -> None:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await handle(stream)

        listener = await anyio.create_tcp_listener(local_host=LOOPBACK)
        self._ports[address, port] = listener.extra(SocketAttribute.local_port)
        self._listeners.append(listener)
        self._tasks.start_soon(listener.serve, guarded)

    async def connect(self, address: IPv4Address, port: int) -> ByteStream:
        """Connect to the server there; nobody else answers."""
        self.dialled.append((str(address), port))
        if (str(address), port) not in self._ports:
            raise ConnectionRefusedError
        return await dial(IPv4Address(LOOPBACK), self._ports[str(address), port])

    async def aclose(self) -> None:
        """End all servers."""
        for listener in self._listeners:
            await listener.aclose()

    def gateway(self, default: str = "internet", packages: tuple[str, ...] = ()) -> Gateway:
        """Make the way of a fleet's sandboxes into this world."""
        return Gateway(
            default=Policy.parse(default),
            host=lambda: HostRules(packages=packages),
            clock=lambda: time.time_ns() // 1_000_000,
            resolver=Resolver(Upstream(self.names.servers)),
            connect=self.connect,
        )


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    """A world with a web site, www.example.com, and names of others, for the length of a block."""
    tasks = anyio.create_task_group()
    async with name_server() as names:
        made = World(names, tasks)
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
