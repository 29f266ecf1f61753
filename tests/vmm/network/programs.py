"""A program in a guest that has opened a connection, and servers in the world: all are real TCP on the loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from subprocess import run

import anyio
from anyio.abc import ByteStream, SocketAttribute

from vmm.network.tcp import TcpStream, dial, reset

LOOPBACK = "127.0.0.1"


class Program:
    """One connection of a program.

    Attributes:
        stream: The program's own end.
        taken: How often the server's side took the other end.
    """

    def __init__(self, own: socket.socket, other: socket.socket) -> None:
        self.stream = TcpStream(own)
        self.taken = 0
        self._other = TcpStream(other)

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[ByteStream]:
        """Open the guest's end as the link does: an error resets it."""
        self.taken += 1
        try:
            yield self._other
        except BaseException:
            await reset(self._other)
            raise
        await self._other.aclose()

    async def everything(self) -> bytes:
        """Receive until the end."""
        received = b""
        while True:
            try:
                received += await self.stream.receive()
            except anyio.EndOfStream:
                return received

    async def is_reset(self) -> bool:
        """Wait for the end, and tell whether it is a reset."""
        try:
            await self.everything()
        except anyio.BrokenResourceError:
            return True
        return False

    async def refuse(self) -> None:
        """Reset the connection, as the link does; a no-op if it is closed."""
        await reset(self._other)

    async def aclose(self) -> None:
        for stream in (self.stream, self._other):
            await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def program() -> AsyncGenerator[Program]:
    own, other = tcp_pair()
    made = Program(own, other)
    try:
        yield made
    finally:
        await made.aclose()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected to each other, and do not block."""
    with socket.create_server((LOOPBACK, 0)) as server:
        own = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    own.setblocking(False)
    other.setblocking(False)
    return own, other


Handler = Callable[[ByteStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[int]:
    """Run a TCP server; gives its port."""
    listener = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=0)

    async def handle(stream: ByteStream) -> None:
        async with stream:
            try:
                await handler(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        try:
            yield listener.extra(SocketAttribute.local_port)
        finally:
            tasks.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    """Send everything back, and end when the other side does."""
    try:
        while True:
            await stream.send(await stream.receive())
    except anyio.EndOfStream:
        await stream.send_eof()


class World:
    """Dials loopback servers that stand for others.

    Attributes:
        dialled: Addresses and ports that were dialled.

    Args:
        ports: The loopback port of the server that stands for each port.
    """

    def __init__(self, ports: dict[int, int]) -> None:
        self.dialled: list[tuple[str, int]] = []
        self._ports = ports

    async def connect(self, address: IPv4Address, port: int) -> ByteStream:
        self.dialled.append((str(address), port))
        return await dial(IPv4Address(LOOPBACK), self._ports[port])


def certificate(place: Path, *names: str) -> tuple[Path, Path]:
    """Make a certificate for names, with its key."""
    made, key = place / "certificate.pem", place / "key.pem"
    subject = ",".join(f"DNS:{name}" for name in names)
    command = f"openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN={names[0]}"
    extension = ["-addext", f"subjectAltName={subject}"]
    run([*command.split(), *extension, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return made, key
