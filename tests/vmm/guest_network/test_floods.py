"""Sandboxes that ask for too much: they get a bounded part of the server, and nothing is left of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from anyio.abc import SocketStream

from tests.vmm.guest_network.boxes import ALICE, WAIT_MS, made, said
from tests.vmm.network_world import SITE, World
from tests.waiting import until
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.network import way
from vmm.network.way import TOO_MANY

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

HELD = 9
"""The port of a server that ends nothing."""
KEPT = 64
"""Connections to the agents of both sandboxes that the server keeps for later calls."""
MOST = 64
"""Connections of a sandbox at once, fewer than servers allow: each one takes long on emulated machines."""
MANY = 400
"""Connections, and lookups: several times of what a sandbox may have at once."""

FLOOD = f"""
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
place = socket.gethostbyname('www.example.com')
asking = socket.socket(type=socket.SOCK_DGRAM)
held = []
for number in range({MANY}):
    held.append(socket.socket())
    held[-1].setblocking(False)
    held[-1].connect_ex((place, {HELD}))
    name = b'n%05d' % number
    asking.sendto(number.to_bytes(2, 'big') + bytes.fromhex('01000001000000000000') + b'\\6' + name +
        b'\\7example\\3com\\0\\0\\1\\0\\1', ('192.0.2.53', 53))
input()
"""


async def test_a_flood_has_a_bounded_part_of_the_server_and_leaves_the_rest_to_others(
    fleet: Fleet, net: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "MOST_CONNECTIONS", MOST)
    now = most = 0

    async def hold(stream: SocketStream) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        try:
            async with stream:
                async for _ in stream:
                    continue
        finally:
            now -= 1

    await net.serve(SITE, HELD, hold)
    await made(fleet, "*.example.com")
    await made(fleet, "www.example.com", name="two")
    before = files()
    flood = await fleet.guest.start(ALICE, "box", Command(argv=("python3", "-c", FLOOD)), open_stdin=True)
    await until(lambda: now == MOST)
    assert await said(fleet, "curl -sS http://www.example.com/", "two") == "Host: www.example.com"
    await fleet.guest.feed(ALICE, "box", flood.pid, b"\n", eof=True)
    ended = await fleet.guest.wait(ALICE, "box", flood.pid, wait_ms=WAIT_MS)
    assert ended.exit_code == 0, ended
    assert most == MOST
    await until(lambda: now == 0 and files() <= before + KEPT)
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"
    refused = (await fleet.network.get(ALICE, "box")).log.last(200, allowed=False)
    assert {event.reason for event in refused} == {TOO_MANY}


def files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
