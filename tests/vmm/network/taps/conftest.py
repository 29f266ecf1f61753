"""A host of a test's own, in a network namespace that the whole test is in, with taps, guests and an internet."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from tests.vmm.network.taps import guests, world
from tests.vmm.network.taps.namespaces import Namespace, lacking, namespace
from vmm.network.rules import DENIED
from vmm.network.taps.settings import TapSettings
from vmm.network.taps.taps import Taps

PORTS = (14444, 15353)
_SO_RCVBUFFORCE, _QUEUE = 33, 4 * 1024 * 1024


@pytest.fixture
def host() -> Iterator[Namespace]:
    """The host, which this thread and those that it begins are in."""
    if why := lacking():
        pytest.skip(f"No taps: {why}")
    with namespace() as made, made.entered():
        yield made


@pytest.fixture
def settings() -> TapSettings:
    return TapSettings.read({})


@pytest.fixture
async def internet(host: Namespace) -> AsyncGenerator[world.World]:
    """What is behind the host's uplink."""
    async with world.world(host) as made:
        yield made


@pytest.fixture
async def taps(host: Namespace, settings: TapSettings) -> AsyncGenerator[Taps]:
    """The host's taps; what is redirected is answered by servers that tell what they are."""
    made = await Taps.open(settings, denied=[network for _, network in DENIED], ports=PORTS)
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for opened, port in ((tcp, PORTS[0]), (udp, PORTS[1])):
            opened.setblocking(False)
            opened.bind((str(settings.gateway.ip), port))
        tcp.listen(1024)
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_redirected, tcp)
            tasks.start_soon(_resolver, udp)
            yield made
            tasks.cancel_scope.cancel()
    await made.aclose()


@pytest.fixture
def guest(taps: Taps, tmp_path: Path) -> Callable[[str], AbstractAsyncContextManager[guests.Guest]]:
    """Makes guests."""
    return lambda name: guests.guest(taps, tmp_path / name)


def enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "setns")


async def _redirected(listening: socket.socket) -> None:
    """Tell each connection where it was to go."""
    while True:
        await anyio.wait_readable(listening)
        accepted, _ = listening.accept()
        with accepted:
            port, address = struct.unpack("!2xH4s8x", accepted.getsockopt(socket.IPPROTO_IP, 80, 16))
            accepted.send(f"redirected from {socket.inet_ntoa(address)}:{port}".encode())
            accepted.shutdown(socket.SHUT_WR)


async def _resolver(own: socket.socket) -> None:
    while True:
        await anyio.wait_readable(own)
        _, source = own.recvfrom(65536)
        own.sendto(b"resolver", source)
