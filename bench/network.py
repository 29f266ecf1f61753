"""The network of a sandbox in user mode, on a real machine: `python -m bench.network`.

The server at the other end is a thread of this process, which a sandbox reaches by a public address that the gateway
dials there. The direct line is the same program of the guest with a server in the guest.
"""

from __future__ import annotations

import socket
import threading
import time
from ipaddress import IPv4Address

import anyio
from anyio.abc import ByteStream

from bench.figures import p50, resident, table, timed
from bench.fleet import OWNER, opened, quiet, scratch
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.network.gateway import Gateway
from vmm.network.policy import Policy
from vmm.network.rules import HostRules
from vmm.network.tcp import dial
from vmm.sandboxes.spec import SandboxSpec

_PUBLIC = "198.51.100.7"
_LARGE = 64
_CONNECTIONS = 100
_OPEN = 200
_CREATES = 5
_MIB = 1024 * 1024
_WAIT_MS = 300_000
_CLIENT = """python3 - <<'EOF'
import socket, threading, time
address, port, size, count = {address!r}, {port}, {size}, {count}
if {serve}:
    server = socket.create_server(("127.0.0.1", 0)); port = server.getsockname()[1]
    def answer(sock):
        if sock.recv(1) == b"d":
            piece = bytes(1 << 20)
            for _ in range(size >> 20): sock.sendall(piece)
        sock.close()
    def accept():
        while True: threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
began = time.monotonic()
with socket.create_connection((address, port)) as sock:
    sock.sendall(b"d"); got = 0
    while piece := sock.recv(1 << 18): got += len(piece)
assert got == size
middle = time.monotonic()
for _ in range(count):
    with socket.create_connection((address, port)) as sock:
        sock.sendall(b"o"); sock.recv(1)
print(size / (middle - began) / (1 << 20), count / (time.monotonic() - middle))
EOF"""
_HOLD = """python3 - <<'EOF'
import socket
socks = [socket.create_connection(({address!r}, {port})) for _ in range({count})]
for sock in socks: sock.sendall(b"h")
for sock in socks: sock.recv(1)
print(len(socks), flush=True)
input()
EOF"""


async def main() -> None:
    server = _Server()

    async def connect(address: IPv4Address, port: int) -> ByteStream:
        assert (str(address), port) == (_PUBLIC, server.port)
        return await dial(IPv4Address("127.0.0.1"), port)

    gateway = Gateway(
        default=Policy.parse("internet"), host=HostRules, clock=lambda: time.time_ns() // 1_000_000, connect=connect
    )
    async with scratch() as place, opened(place, gateway=gateway) as fleet:
        await fleet.prepare("code", cpu=1, mem=1024)
        await fleet.sandboxes.create(OWNER, SandboxSpec(name="box"))
        through = await _measured(fleet, address=_PUBLIC, port=server.port, serve=False)
        inside = await _measured(fleet, address="127.0.0.1", port=0, serve=True)
        grown = await _memory(fleet, server.port)
        creates = await _creates(fleet)
        await fleet.sandboxes.delete(OWNER, "box")
    rows = [
        ("MiB/s from outside into the guest", f"{through[0]:.1f}", f"{inside[0]:.1f}"),
        ("connections/s, one after the other", f"{through[1]:.1f}", f"{inside[1]:.1f}"),
    ]
    print(table(("what", "through the server", "inside the guest alone"), rows))
    print(f"\nMemory of the server for {_OPEN} open connections: {grown:.1f} MiB\n")
    print(table(("create -> first exec", "s, p50 of 5"), [(name, f"{value:.2f}") for name, value in creates.items()]))


async def _measured(fleet: Fleet, *, address: str, port: int, serve: bool) -> tuple[float, float]:
    line = _CLIENT.format(address=address, port=port, size=_LARGE * _MIB, count=_CONNECTIONS, serve=serve)
    outcome = await fleet.guest.exec(OWNER, "box", Command(shell=line), wait_ms=_WAIT_MS)
    assert outcome.exit_code == 0, outcome.stderr.data()
    rate, connections = map(float, outcome.stdout.data().split())
    return rate, connections


async def _memory(fleet: Fleet, port: int) -> float:
    before = resident()
    line = _HOLD.format(address=_PUBLIC, port=port, count=_OPEN)
    running = await fleet.guest.start(OWNER, "box", Command(shell=line), open_stdin=True)
    while not (await fleet.guest.read_output(OWNER, "box", running.pid, wait_ms=10_000)).stdout.data:
        pass
    grown = resident() - before
    await fleet.guest.signal(OWNER, "box", running.pid, 9)
    return grown


async def _creates(fleet: Fleet) -> dict[str, float]:
    samples: dict[str, list[float]] = {"none": [], "internet": []}
    for _ in range(_CREATES):
        for network, taken in samples.items():
            with timed(taken):
                await fleet.sandboxes.create(OWNER, SandboxSpec(name="new", network=network))
                await fleet.guest.exec(OWNER, "new", Command(shell="true"), wait_ms=_WAIT_MS)
            await fleet.sandboxes.delete(OWNER, "new")
    return {network: p50(taken) for network, taken in samples.items()}


class _Server:
    """Sends much, or one byte, or nothing more, by the first byte of a connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            threading.Thread(target=self._answer, args=(self._listener.accept()[0],), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock:
            asked = sock.recv(1)
            if asked == b"d":
                piece = bytes(_MIB)
                for _ in range(_LARGE):
                    sock.sendall(piece)
            elif asked == b"h":
                sock.sendall(b"x")
                sock.recv(1)


if __name__ == "__main__":
    quiet()
    anyio.run(main)
