"""A small world in a network namespace, and what one sandbox reaches in it: printed as JSON.

`unshare --net python -m tests.vmm.network.world_of_its_own`. Its addresses are those of the loopback device there, so
nothing of it is left when the process ends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address
from subprocess import run

import anyio
from anyio.abc import ByteStream

from tests.vmm.network.hellos import hello
from tests.vmm.network.programs import program
from vmm.network.addresses import AddressBook
from vmm.network.egress import Egress, EgressRefused
from vmm.network.log import NetworkLog
from vmm.network.own_addresses import addresses
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, Rules

WEB, NEIGHBOUR, METADATA, OWN = "198.51.100.10", "10.0.0.5", "169.254.169.254", "192.0.2.1"
AWAY, NOWHERE = "203.0.113.1", "192.0.2.200"
PORTS = (80, 443, 5432)


async def main() -> None:
    configure()
    async with AsyncExitStack() as stack:
        accepted: list[str] = []
        for address in (WEB, NEIGHBOUR, METADATA, OWN):
            for port in PORTS[:2]:
                await stack.enter_async_context(serving(address, port, accepted))
        host = HostRules(own=(IPv4Address(OWN),))
        found: dict[str, dict[str, str]] = {}
        for policy in ("internet", "example.com"):
            found[policy] = {
                "web": await reached(policy, host, WEB, 443, hello("example.com")),
                "web's other name": await reached(policy, host, WEB, 443, hello("example.org")),
                "web over http": await reached(policy, host, WEB, 80, b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
                "nothing listens": await reached(policy, host, WEB, 5432, b"x"),
                "neighbour": await reached(policy, host, NEIGHBOUR, 80, b"x"),
                "metadata": await reached(policy, host, METADATA, 80, b"x"),
                "own": await reached(policy, host, OWN, 80, b"x"),
                "away": await reached(policy, host, AWAY, 22, b"x"),
                "nowhere": await reached(policy, host, NOWHERE, 22, b"x"),
            }
        print(json.dumps({"reached": found, "accepted": sorted(set(accepted)), "own": [*map(str, addresses())]}))


def configure() -> None:
    commands = ["link set lo up", f"route add unreachable {AWAY}/32"]
    commands += [f"addr add {address}/32 dev lo" for address in (WEB, NEIGHBOUR, METADATA, OWN)]
    for command in commands:
        run(["ip", *command.split()], check=True)


@asynccontextmanager
async def serving(address: str, port: int, accepted: list[str]) -> AsyncGenerator[None]:
    async def handle(stream: ByteStream) -> None:
        accepted.append(address)
        async with stream:
            await stream.receive()
            await stream.send(b"reached")

    listener = await anyio.create_tcp_listener(local_host=address, local_port=port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield
        tasks.cancel_scope.cancel()


async def reached(policy: str, host: HostRules, address: str, port: int, first: bytes) -> str:
    """Connect as a program; what it receives, or why it was reset."""
    book = AddressBook()
    for name in ("example.com", "example.org"):
        for place in (WEB, AWAY, NOWHERE):
            book.add(name, IPv4Address(place), 60)
    rules = Rules(Policy.parse(policy), host)
    egress = Egress(lambda: rules, book, NetworkLog(lambda: 0))
    refusals: list[str] = []
    received = b""
    async with program() as made:

        async def carry() -> None:
            try:
                await egress.run(IPv4Address(address), port, made.take)
            except EgressRefused as refusal:
                refusals.append(refusal.reason)
                await made.refuse()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry)
            with suppress(anyio.BrokenResourceError):
                await made.stream.send(first)
                received = await made.stream.receive()
            await made.stream.aclose()
    return received.decode() or refusals[0]


if __name__ == "__main__":
    anyio.run(main)
