"""The network as programs in a sandbox see it: what their policy allows works, everything else ends at once.

On both ways, with the same results: carried by the server, and with a tap in a network namespace of the test's own.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from tests.conftest import Opener
from tests.vmm.guest_network.boxes import ALICE, RESET, WAIT_MS, made, only_taps, said, sh
from tests.vmm.network.taps.namespaces import Namespace
from tests.vmm.network_world import OTHER, SHARED, SITE, World, world
from tests.vmm.tapped_host import tapped_host
from tests.waiting import PATIENCE_S
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.process import orphans
from vmm.machines import companions
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.network.taps.taps import Taps

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

KIB = 1024
LATE_S = 0.5
"""How late the kernel takes a policy, unless its sandbox was given before: then that was too early."""

CONNECT = """python3 - <<'EOF'
import socket
try:
    # A refusal may come so soon that it ends the call that connects.
    with socket.create_connection(({address!r}, {port}), 60) as sock:
        sock.sendall(b"hello")
        print(sock.recv(100).decode() or "ended")
except ConnectionResetError:
    print("reset")
EOF"""


@pytest.mark.kvm
async def test_a_server_outside_is_reached_by_its_name(fleet: Fleet, net: World) -> None:
    await made(fleet)
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"
    assert net.reached == [(SITE, 80)]


async def test_names_and_addresses_outside_are_reached(fleet: Fleet, net: World) -> None:
    await made(fleet)
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"
    assert await said(fleet, f"curl -sS http://{SITE}/") == f"Host: {SITE}"
    assert await said(fleet, CONNECT.format(address=OTHER, port=7)) == "hello"
    assert set(net.reached) == {(SITE, 80), (OTHER, 7)}
    seen = await fleet.network.get(ALICE, "box")
    assert set(seen.destinations(allowed=True, most=5)) == {"www.example.com:80", f"{OTHER}:7"}


async def test_what_is_private_is_refused_at_once_and_explained(fleet: Fleet, net: World) -> None:
    await made(fleet)
    for address in ("10.0.0.7", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "240.0.0.1"):
        outcome = await sh(fleet, f"curl -sS http://{address}/")
        assert outcome.exit_code in RESET, address
        assert f"[network: refused {address}:80" in outcome.network
    assert net.reached == []


async def test_a_name_that_points_inside_is_not_answered(fleet: Fleet, net: World) -> None:
    await made(fleet)
    for name in ("inside.example.com", "metadata.example.com"):
        outcome = await sh(fleet, f"curl -sS http://{name}/")
        assert outcome.exit_code == 6
        assert f"refused {name}" in outcome.network
    assert net.reached == []


async def test_a_list_of_names_opens_these_names_and_no_neighbour_on_their_address(fleet: Fleet, net: World) -> None:
    await made(fleet, "one.example.org")
    assert await said(fleet, "curl -sS http://one.example.org/") == "Host: one.example.org"
    refused = await sh(fleet, "curl -sS http://two.example.org/")
    assert refused.exit_code == 6
    assert 'refused two.example.org by policy "allow"' in refused.network
    assert (await sh(fleet, f"curl -sS -H 'Host: two.example.org' http://{SHARED}/")).exit_code in RESET
    assert (await sh(fleet, f"curl -sS http://{SITE}/")).exit_code in RESET
    assert net.reached == [(SHARED, 80)]


async def test_none_allows_nothing_and_says_how_to_change_that(fleet: Fleet, net: World) -> None:
    await made(fleet, "none")
    outcome = await sh(fleet, "curl -sS http://www.example.com/")
    assert outcome.exit_code == 6
    assert "to allow: update_sandbox(network=...)" in outcome.network
    assert await said(fleet, CONNECT.format(address=OTHER, port=7)) == "reset"
    assert net.reached == []


async def test_packages_are_what_the_hosts_own_registries_are(fleet: Fleet) -> None:
    await made(fleet, "packages")
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"
    assert (await sh(fleet, "curl -sS http://one.example.org/")).exit_code == 6


async def test_what_is_neither_tcp_nor_dns_is_rejected_in_the_guest(fleet: Fleet) -> None:
    await made(fleet)
    sent = (
        "import socket; s = socket.socket({family}, {kind}); s.settimeout(60); s.connect(({address!r}, 443))\n"
        "s.send(b'x'); s.recv(1)"
    )
    for family, kind, address in (
        ("socket.AF_INET", "socket.SOCK_DGRAM", OTHER),
        ("socket.AF_INET6", "socket.SOCK_STREAM", "2001:db8::1"),
        ("socket.AF_INET6", "socket.SOCK_DGRAM", "2001:db8::1"),
    ):
        line = sent.format(family=family, kind=kind, address=address)
        outcome = await sh(fleet, f'python3 -c "{line}"')
        error = outcome.stderr.data().decode()
        assert outcome.exit_code == 1
        assert "Errno" in error, error
        assert "timed out" not in error


async def test_queries_go_to_the_gateway_whatever_server_they_name_and_by_tcp_too(fleet: Fleet) -> None:
    await made(fleet)
    ask = (
        "import socket, struct\n"
        "query = bytes.fromhex('123401000001000000000000') + b'\\x03www\\x07example\\x03com\\0\\0\\1\\0\\1'\n"
    )
    udp = ask + (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.connect(('203.0.113.53', 53))\n"
        "s.send(query); print(socket.inet_ntoa(s.recv(512)[-4:]))"
    )
    tcp = ask + (
        "s = socket.create_connection(('203.0.113.53', 53), 60); s.sendall(struct.pack('!H', len(query)) + query)\n"
        "s.shutdown(socket.SHUT_WR); print(socket.inet_ntoa(s.makefile('rb').read()[-4:]))"
    )
    for line in (udp, tcp):
        assert await said(fleet, f"python3 - <<'EOF'\n{line}\nEOF") == SITE


async def test_a_new_policy_ends_the_connections_that_it_does_not_allow(fleet: Fleet, net: World) -> None:
    connected = anyio.Event()

    async def hold(stream: SocketStream) -> None:
        async with stream:
            connected.set()
            async for _ in stream:
                continue

    await net.serve(OTHER, 9, hold)
    await made(fleet)
    # With a tap, a program learns of the end of its connection from what it sends next.
    line = (
        "import socket, time\n"
        "try:\n"
        f"    sock = socket.create_connection(({OTHER!r}, 9), 60)\n"
        "    while True:\n"
        "        sock.sendall(b'more')\n"
        "        time.sleep(0.05)\n"
        "except ConnectionError:\n"
        "    print('reset')"
    )
    running = await fleet.guest.start(ALICE, "box", Command(argv=("python3", "-c", line)))
    await connected.wait()
    await fleet.sandboxes.update(ALICE, "box", network="www.example.com")
    ended = await fleet.guest.wait(ALICE, "box", running.pid, wait_ms=WAIT_MS)
    assert ended.stdout.data() == b"reset\n"
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"


async def test_a_fork_has_its_parents_policy_and_a_network_of_its_own(fleet: Fleet) -> None:
    await made(fleet, "one.example.org")
    (fork,) = await fleet.snapshots.fork(ALICE, "box")
    assert fork.sandbox is not None
    for name in ("box", fork.sandbox.id):
        assert await said(fleet, "curl -sS http://one.example.org/", name) == "Host: one.example.org"
        assert (await sh(fleet, "curl -sS http://www.example.com/", name)).exit_code == 6


async def test_a_sandbox_that_slept_has_its_network_again(fleet: Fleet) -> None:
    await made(fleet)
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"
    await fleet.lifecycle.sleep(ALICE, "box")
    assert await said(fleet, "curl -sS http://www.example.com/") == "Host: www.example.com"


async def test_a_program_gets_all_bytes_both_ways(fleet: Fleet, net: World) -> None:
    await made(fleet)
    size = 4 * 1024 * KIB
    line = (
        "import hashlib, os, socket, threading\n"
        f"sock = socket.create_connection(({OTHER!r}, 7)); data = os.urandom({size})\n"
        "threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))).start()\n"
        "print(sock.makefile('rb').read() == data)"
    )
    assert await said(fleet, f"python3 - <<'EOF'\n{line}\nEOF") == "True"


async def test_a_server_in_the_sandbox_is_reached_through_the_link(fleet: Fleet) -> None:
    await made(fleet)
    await sh(fleet, "mkdir -p /srv/www; echo from inside > /srv/www/index.html")
    await fleet.guest.start(
        ALICE, "box", Command(shell="exec python3 -m http.server --bind 127.0.0.1 -d /srv/www 8000")
    )
    await sh(fleet, "until curl -s http://127.0.0.1:8000/ >/dev/null; do sleep 0.1; done")
    async with fleet.guest.reach(ALICE, "box") as (_, link), link.connect(8000) as stream:
        await stream.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join([piece async for piece in stream])
    assert answer.endswith(b"from inside\n")


async def test_what_root_in_the_sandbox_changes_opens_nothing(fleet: Fleet, net: World) -> None:
    await made(fleet, "one.example.org")
    assert await said(fleet, "curl -sS http://one.example.org/") == "Host: one.example.org"
    # Its own device, addresses and routes are the sandbox's; what it reaches is decided elsewhere.
    await sh(fleet, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo nameserver 10.0.0.7 > /etc/resolv.conf")
    assert (await sh(fleet, f"curl -sS http://{SITE}/")).exit_code in RESET
    assert await said(fleet, "curl -sS http://one.example.org/") == "Host: one.example.org"
    assert net.reached == [(SHARED, 80)] * 2


@only_taps
async def test_a_sandbox_that_is_given_has_its_policy_in_force_however_late_the_kernel_takes_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_force: set[IPv4Address | None] = set()
    given = anyio.Event()
    allow = Taps.allow

    async def late(taps: Taps, address: IPv4Address, fast: FastPath) -> None:
        if fast != CLOSED:
            with anyio.move_on_after(LATE_S):
                await given.wait()
        await allow(taps, address, fast)
        in_force.add(address)

    async def check(name: str = "box") -> None:
        nonlocal given
        given.set()
        assert (await fleet.network.get(ALICE, name)).address in in_force
        given = anyio.Event()
        in_force.clear()

    monkeypatch.setattr(Taps, "allow", late)
    monkeypatch.setattr(companions, "IN_FORCE_S", PATIENCE_S)
    await made(fleet)
    await check()
    await fleet.lifecycle.sleep(ALICE, "box")
    await fleet.lifecycle.wake(ALICE, "box")
    await check()
    snapshot = await fleet.snapshots.take(ALICE, "box")
    await fleet.snapshots.restore(ALICE, "box", snapshot.id)
    await check()
    (fork,) = await fleet.snapshots.fork(ALICE, "box")
    assert fork.sandbox is not None
    await check(fork.sandbox.id)


@only_taps
async def test_with_a_tap_udp_and_ping_reach_what_is_opened_by_address(fleet: Fleet, net: World) -> None:
    assert net.host is not None
    net.echo_datagrams(net.host, OTHER, 7)
    asked = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(60)\n"
        f"s.connect(({OTHER!r}, 7)); s.send(b'hello'); print(s.recv(100).decode())"
    )
    await made(fleet)
    assert await said(fleet, f'python3 -c "{asked}"') == "hello"
    assert await said(fleet, f"ping -c 1 -W 60 {SITE} >/dev/null && echo pong") == "pong"
    seen = (await fleet.network.get(ALICE, "box")).destinations(allowed=True, most=5)
    assert set(seen) == {f"{OTHER}:7/udp", f"{SITE}/icmp"}

    await fleet.sandboxes.update(ALICE, "box", network="www.example.com")
    refused = await sh(fleet, f'python3 -c "{asked}"')
    assert refused.exit_code == 1
    assert f'refused {OTHER}:7/udp by policy "allow"' in refused.network
    assert f"refused {SITE}/icmp" in (await sh(fleet, f"ping -c 1 -W 60 {SITE}")).network


@only_taps
async def test_each_sandbox_has_an_address_of_its_own_while_it_runs_and_reaches_no_other(
    fleet: Fleet, net: World
) -> None:
    def devices() -> int:
        return sum(name.startswith("cmt") for _, name in socket.if_nameindex())

    await made(fleet, name="one")
    await made(fleet, name="two")
    (fork,) = await fleet.snapshots.fork(ALICE, "one")
    assert fork.sandbox is not None
    names = ("one", "two", fork.sandbox.id)
    addresses = [(await fleet.network.get(ALICE, name)).address for name in names]
    assert len(set(addresses)) == len(names) == devices()
    for name, address in zip(names, addresses, strict=True):
        assert await said(fleet, "hostname -I", name) == str(address)
    outcome = await sh(fleet, f"curl -sS http://{addresses[1]}/; ping -c 1 -W 60 {addresses[1]}", "one")
    assert f"refused {addresses[1]}:80" in outcome.network
    assert f"{addresses[1]}/icmp" in outcome.network

    await fleet.lifecycle.sleep(ALICE, "two")
    assert devices() == len(names) - 1
    assert await said(fleet, "hostname -I", "two") == str((await fleet.network.get(ALICE, "two")).address)
    assert devices() == len(names)


@only_taps
async def test_the_next_server_takes_machines_over_with_their_addresses(
    outside: Namespace, open_fleet: Opener, data: Path
) -> None:
    addresses: list[str] = []
    for turn in ("first", "next"):
        async with (
            tapped_host(outside) as host,
            world(host) as net,
            open_fleet(gateway=net.gateway(), driver=host.driver) as fleet,
        ):
            if turn == "first":
                await made(fleet)
                await sh(fleet, "echo kept > /dev/shm/word")
            told = await said(fleet, "curl -sS http://www.example.com/; cat /dev/shm/word")
            assert told == "Host: www.example.comkept"
            addresses.append(str((await fleet.network.get(ALICE, "box")).address))
            if turn == "next":
                await fleet.sandboxes.delete(ALICE, "box")
                assert len(host.taps) == 0
    assert addresses[0] == addresses[1] != "None"
    assert orphans(data / "instances") == {}
