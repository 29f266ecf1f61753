"""The internet of a test: a namespace behind the host's uplink, with servers that send back what they get."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import anyio
from anyio.abc import TaskGroup

from tests.vmm.network.taps.namespaces import Namespace, namespace
from vmm.network.tcp import TcpStream

UPLINK, ROUTER = "203.0.113.2", "203.0.113.1"
SITE, OTHER, PRIVATE = "198.51.100.7", "198.51.100.8", "10.9.9.9"
"""Two public servers, and one that is nobody's business."""
PORTS = (80, 443, 5000)

_ALL = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING


class Sniffer:
    """Sees what comes in by a device."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._seen: list[bytes] = []

    @property
    def frames(self) -> list[bytes]:
        """All frames up to now."""
        with suppress(BlockingIOError):
            while True:
                frame, source = self._socket.recvfrom(65536)
                if source[2] != _OUTGOING:
                    self._seen.append(frame)
        return self._seen


@contextmanager
def sniffer(device: str, place: Callable[[Callable[[], socket.socket]], socket.socket]) -> Generator[Sniffer]:
    """Listen at a device for the length of a block; `place` makes the socket there."""

    def made() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ALL))
        opened.bind((device, _ALL))
        return opened

    with place(made) as opened:
        yield Sniffer(opened)


class World:
    """What is behind the uplink.

    Attributes:
        arrived: All frames that came there.
        callers: The addresses that TCP servers were called from.
    """

    def __init__(self, place: Namespace, arrived: Sniffer) -> None:
        self.arrived = arrived
        self.callers: set[str] = set()
        self.place = place

    def saw(self, text: bytes) -> bool:
        """Tell whether a frame with that in it came."""
        return any(text in frame for frame in self.arrived.frames)

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """A socket of the world."""
        return self.place.run(lambda: socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK))

    async def serve(self, address: str, port: int, tasks: TaskGroup, stack: AsyncExitStack) -> None:
        for kind, run in ((socket.SOCK_STREAM, self._accept), (socket.SOCK_DGRAM, self._reply)):
            opened = stack.enter_context(self.socket(kind))
            opened.bind((address, port))
            if kind == socket.SOCK_STREAM:
                opened.listen()
            tasks.start_soon(run, opened, tasks)

    async def _accept(self, listening: socket.socket, tasks: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listening)
            accepted, source = listening.accept()
            accepted.setblocking(False)
            self.callers.add(source[0])
            tasks.start_soon(_echo, TcpStream(accepted))

    async def _reply(self, own: socket.socket, _: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(own)
            with suppress(BlockingIOError):
                own.sendto(*own.recvfrom(65536))


@asynccontextmanager
async def world(host: Namespace) -> AsyncGenerator[World]:
    """Put a world behind a host, for the length of a block."""
    with namespace() as place:
        place.write("ipv6/conf/default/disable_ipv6", "1")
        host.write("ipv6/conf/default/disable_ipv6", "1")
        host.ip(
            "link add uplink type veth peer name host",
            f"link set host netns {place.path}",
            f"addr add {UPLINK}/24 dev uplink",
            "link set uplink up",
        )
        place.ip(
            f"addr add {ROUTER}/24 dev host",
            "link set host up",
            *(f"addr add {address}/32 dev lo" for address in (SITE, OTHER, PRIVATE)),
        )
        host.ip(f"route add default via {ROUTER}")
        with sniffer("host", place.run) as arrived:
            made = World(place, arrived)
            async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
                for address in (SITE, OTHER, PRIVATE):
                    for port in PORTS:
                        await made.serve(address, port, tasks, stack)
                yield made
                tasks.cancel_scope.cancel()


async def _echo(stream: TcpStream) -> None:
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.send(await stream.receive())
