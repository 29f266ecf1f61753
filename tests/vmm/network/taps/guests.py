"""A guest on a tap: real sockets of a network namespace behind its descriptor, and frames that no kernel would send."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel

from tests.vmm.network.taps import frames
from tests.vmm.network.taps.namespaces import Namespace, namespace
from tests.waiting import PATIENCE_S
from vmm.hypervisor.nic import Nic
from vmm.network.taps import bridge
from vmm.network.taps.taps import Taps

_TUNSETIFF = 0x400454CA
_TAP_NO_PI_VNET_HDR = 0x5002
_MOST = 65536


class Guest:
    """A guest.

    Attributes:
        nic: What it was told.
        directory: Of its machine.
        own: Where its programs are.
        came: All frames that it received, without virtio's header.
    """

    def __init__(self, nic: Nic, directory: Path, port: int, own: Namespace) -> None:
        self.nic = nic
        self.directory = directory
        self.came: list[bytes] = []
        self._port = port
        self.own = own

    @property
    def address(self) -> str:
        return str(self.nic.address.ip)

    def send(self, payload: bytes, kind: int = frames.IPV4, **more: object) -> None:
        """Send a frame to the host; other names of its fields are those of `frames.ethernet`."""
        fields = {"to": bridge.MAC, "source": self.nic.mac, "kind": kind, "payload": payload, **more}
        os.write(self._port, frames.VNET + frames.ethernet(**fields))  # pyright: ignore[reportArgumentType]

    def socket(self, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """A socket of one of its programs."""
        return self.own.run(lambda: socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK, protocol))

    async def connect(self, address: str, port: int) -> socket.socket:
        """Connect by TCP.

        Raises:
            OSError: As a program sees it.
        """
        own = self.socket(socket.SOCK_STREAM)
        try:
            await connected(own, address, port)
        except BaseException:
            own.close()
            raise
        return own

    async def hears(self, address: str, port: int, data: bytes = b"hello") -> bytes:
        """Connect by TCP, say something, and return the answer."""
        with await self.connect(address, port) as own:
            own.send(data)
            return await received(own)

    async def asks(self, address: str, port: int, data: bytes = b"hello") -> bytes:
        """Ask by UDP, and return the answer.

        Raises:
            OSError: What an ICMP message means to a program.
        """
        with self.socket(socket.SOCK_DGRAM) as own:
            own.connect((address, port))
            own.send(data)
            return await received(own)

    async def pings(self, address: str) -> bool:
        """Ping; whether an answer came. Refusals are errors as of `asks`."""
        with self.socket(socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as own:
            own.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: messages about it are errors of the socket
            own.connect((address, 0))
            own.send(struct.pack("!BBHHH", 8, 0, 0, 0, 1))
            return (await received(own))[0] == 0

    async def pump(self) -> None:
        """Carry frames between the tap and the guest's device, until cancelled."""
        inner = self.own.run(_device)
        try:
            self.own.ip(
                f"link set eth0 address {self.nic.mac}",
                f"addr add {self.nic.address} dev eth0",
                "link set eth0 up",
                f"route add default via {self.nic.gateway} dev eth0 onlink",
            )
            self.own.write("ipv4/ping_group_range", "0 2147483647")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry, self._port, inner, self.came)
                tasks.start_soon(self._carry, inner, self._port, None)
        finally:
            os.close(inner)

    async def _carry(self, source: int, to: int, seen: list[bytes] | None) -> None:
        while True:
            await anyio.wait_readable(source)
            try:
                frame = os.read(source, _MOST)
            except BlockingIOError:
                continue
            if seen is not None:
                seen.append(frame[len(frames.VNET) :])
            os.write(to, frame)
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def guest(taps: Taps, directory: Path) -> AsyncGenerator[Guest]:
    """A machine, for the length of a block; it is as one whose process has ended afterwards."""
    with namespace() as own:
        own.write("ipv6/conf/default/disable_ipv6", "1")
        async with taps.attached(directory) as (nic, descriptor):
            held = os.dup(descriptor)
        try:
            made = Guest(nic, directory, held, own)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.pump)
                yield made
                tasks.cancel_scope.cancel()
        finally:
            os.close(held)
    await taps.release(directory)


async def connected(own: socket.socket, address: str, port: int) -> None:
    """Wait until a connection is made."""
    code = own.connect_ex((address, port))
    if code == errno.EINPROGRESS:
        with anyio.fail_after(PATIENCE_S):
            await anyio.wait_writable(own)
        code = own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def received(own: socket.socket) -> bytes:
    """Wait for what comes next."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            await anyio.wait_readable(own)
            try:
                return own.recv(_MOST)
            except BlockingIOError:
                continue


def refused(error: OSError) -> bool:
    """Tell whether that is what a program sees of a message "administratively prohibited"."""
    return error.errno == errno.EHOSTUNREACH


def _device() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _TAP_NO_PI_VNET_HDR))
    return descriptor
