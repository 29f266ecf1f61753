"""A network of taps for machines, in a network namespace of its own: nothing of it is left when it ends."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, TypeVar

import anyio

from tests.waiting import PATIENCE_S
from vmm.errors import Conflict
from vmm.hypervisor.nic import Nic

GATEWAY = IPv4Interface("10.41.0.1/16")
PORT = 7777

_NEW_NET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP, _NO_PI, _VNET_HDR = 0x2, 0x1000, 0x4000
_BRIDGE = "bridge"
T = TypeVar("T")


class TapNetwork:
    """Makes taps on a bridge that has the gateway's address, and plays the host behind it.

    Attributes:
        used: The addresses of the machines, by directory.
        last: The last number that was given, so that every machine has another address.
    """

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self.used: dict[Path, Nic] = {}
        self.last = 1

    def within(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the network's namespace, where its sockets stay."""
        return self._thread.submit(function, *arguments).result()

    @asynccontextmanager
    async def attached(self, directory: Path) -> AsyncGenerator[tuple[Nic, int]]:
        """Make a tap with the next address."""
        assert directory not in self.used
        self.last += 1
        address = GATEWAY.network[self.last]
        nic = Nic(
            mac="02:00:" + address.packed.hex(":"),
            address=IPv4Interface(f"{address}/{GATEWAY.network.prefixlen}"),
            gateway=GATEWAY.ip,
        )
        descriptor = self.within(_tap, f"tap{self.last}", nic.mac)
        self.used[directory] = nic
        try:
            yield nic, descriptor
        except BaseException:
            await self.release(directory)
            raise
        finally:
            os.close(descriptor)

    async def adopt(self, directory: Path, nic: Nic) -> None:
        """Remember a machine."""
        if nic.address.network != GATEWAY.network:
            raise Conflict(f"{nic.address} is not of the network {GATEWAY.network}")
        self.used[directory] = nic

    async def release(self, directory: Path) -> None:
        """Forget a machine."""
        self.used.pop(directory, None)

    async def sweep(self) -> None:
        """Forget nothing more: no server comes after this one."""

    async def answers(self, address: IPv4Address) -> bool:
        """Tell whether a guest answers: what nothing listens for is refused by its kernel, after it answered ARP."""
        with self.within(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            sock.setblocking(False)
            sock.send(b"x")
            with anyio.fail_after(PATIENCE_S):
                await anyio.wait_readable(sock)
            try:
                sock.recv(1)
            except ConnectionRefusedError:
                return True
            except OSError:  # no answer to ARP
                return False
        return False

    def neighbours(self) -> set[tuple[str, str]]:
        """The guests that the host knows: address and MAC of each."""
        lines = self.within(_ip, f"neigh show dev {_BRIDGE}").splitlines()
        return {(words[0], words[2]) for words in map(str.split, lines) if "lladdr" in words}

    @contextmanager
    def listening(self) -> Generator[socket.socket]:
        """Listen at the gateway's address for connections of guests."""
        with self.within(socket.create_server, (str(GATEWAY.ip), PORT)) as listener:
            listener.setblocking(False)
            yield listener


@contextmanager
def tap_network() -> Generator[TapNetwork]:
    """A network for the length of a block; its machines must have ended by then."""
    with ThreadPoolExecutor(1, initializer=_enter) as thread:
        network = TapNetwork(thread)
        for line in (f"link add {_BRIDGE} type bridge", f"addr add {GATEWAY} dev {_BRIDGE}", f"link set {_BRIDGE} up"):
            network.within(_ip, line)
        yield network


def lacking() -> str:
    """Why this host can have no such network; empty if it can."""
    try:
        with tap_network() as network:
            os.close(network.within(_tap, "tap0", "02:00:00:00:00:00"))
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def _enter() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _tap(name: str, mac: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PI | _VNET_HDR))
    _ip(f"link set {name} master {_BRIDGE} up")
    # The bridge must not learn: a restored guest, and its hypervisor for it, first speak with the address of the saved
    # one, which may still run.
    _ip(f"link set {name} type bridge_slave learning off")
    _run("bridge", f"fdb add {mac} dev {name} master static")
    return descriptor


def _ip(line: str) -> str:
    return _run("ip", line)


def _run(program: str, line: str) -> str:
    return subprocess.run([program, *line.split()], check=True, capture_output=True, text=True).stdout
