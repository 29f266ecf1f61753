"""The network of sandboxes by taps: `python -m bench.taps`, as root. It works in network namespaces of its own.

What is measured: how long a tap takes for the first machine and for the 200th, a policy change of 100, and what 200
machines that come and go leave; then with real machines how much later the first command of a sandbox has run than of
one in user mode, and the throughput from a server behind the host, with the rules of a policy and without any.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio

from bench.figures import p50, table, timed
from bench.fleet import OWNER, opened, quiet, scratch, this_host
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.network.gateway import Gateway
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, denied_networks
from vmm.network.taps import nft
from vmm.network.taps.fast_path import FastPath
from vmm.network.taps.kernel_log import KernelLog
from vmm.network.taps.listener import Listener
from vmm.network.taps.ruleset import NOBODY
from vmm.network.taps.settings import TapSettings
from vmm.network.taps.taps import Taps
from vmm.sandboxes.spec import SandboxSpec

_MIB = 1 << 20
_MANY, _CHANGED, _SAMPLES, _CREATES, _TURNS = 200, 100, 20, 8, 3
_SIZE_MIB = 64
_SITE, _PORT, _UPLINK, _ROUTER = "198.51.100.7", 5000, "192.0.2.2", "192.0.2.1"
_WAIT_MS = 120_000
_OPEN = FastPath(internet=True)
_LISTED = FastPath(networks=(IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.0/24")))
_FETCH = """python3 - <<'EOF'
import socket, time
began = time.monotonic()
with socket.create_connection(({address!r}, {port})) as sock:
    count = 0
    while piece := sock.recv(1 << 16):
        count += len(piece)
print(count / (time.monotonic() - began) / (1 << 20))
EOF"""


async def main() -> None:
    quiet()
    settings = TapSettings.read({})
    with tempfile.TemporaryDirectory() as place:
        await _taps_alone(settings, Path(place))
    with _internet():
        await _machines(settings)


async def _taps_alone(settings: TapSettings, place: Path) -> None:
    taps = await Taps.open(settings, denied=denied_networks(HostRules()), ports=NOBODY)
    before = _left()
    rows: list[tuple[str, ...]] = []
    async with AsyncExitStack() as held:
        first = [await _one(taps, place / f"a{number}") for number in range(_SAMPLES)]
        addresses: list[IPv4Address] = []
        for number in range(_MANY):
            nic, _ = await held.enter_async_context(taps.attached(place / f"b{number}"))
            await taps.allow(nic.address.ip, _OPEN)
            addresses.append(nic.address.ip)
        last = [await _one(taps, place / f"c{number}") for number in range(_SAMPLES)]
        for what, index in (("tap and policy of a machine", 0), ("taken back", 1)):
            ones, others = (p50([sample[index] for sample in samples]) for samples in (first, last))
            times = (f"{ones * 1000:.1f} ms", f"{others * 1000:.1f} ms", f"{others / ones:.2f}")
            rows.append((what, *times))
        began = time.monotonic()
        for address in addresses[:_CHANGED]:
            await taps.allow(address, _LISTED)
        changed = time.monotonic() - began
    for number in range(_MANY):
        await taps.release(place / f"b{number}")
    print(table(("what", "alone", f"beside {_MANY}", "ratio"), rows))
    print(f"\nA new policy for {_CHANGED} sandboxes, one after the other: {changed:.2f} s\n")
    for number in range(_MANY):
        await _one(taps, place / f"d{number}")
    kinds = ("devices", "elements", "descriptors", "addresses lent")
    after = (*_left(), len(taps))
    print(table(("", *kinds), [("before", *map(str, (*before, 0))), (f"after {_MANY}", *map(str, after))]))
    await taps.aclose()


async def _one(taps: Taps, directory: Path) -> tuple[float, float]:
    given: list[float] = []
    taken: list[float] = []
    with timed(given):
        async with taps.attached(directory) as (nic, _):
            await taps.allow(nic.address.ip, _OPEN)
    with timed(taken):
        await taps.release(directory)
    return given[0], taken[0]


async def _machines(settings: TapSettings) -> None:
    creates: dict[str, list[float]] = {"user mode": [], "taps": []}
    rates: dict[str, list[float]] = {}
    async with _fleet(None) as usual, _tapped(settings) as taps, _fleet(taps) as tapped:
        for _ in range(_CREATES):
            for kind, fleet in (("user mode", usual), ("taps", tapped)):
                with timed(creates[kind]):
                    await fleet.sandboxes.create(OWNER, SandboxSpec(name="new", network="none"))
                    await fleet.guest.exec(OWNER, "new", Command(shell="true"), wait_ms=_WAIT_MS)
                await fleet.sandboxes.delete(OWNER, "new")
        await tapped.sandboxes.create(OWNER, SandboxSpec(name="box", network="internet"))
        for _ in range(_TURNS):
            for kind, rules in (("policy internet", None), ("no rules", _without_rules)):
                with rules(settings) if rules else _as_it_is():
                    rates.setdefault(kind, []).append(await _fetched(tapped))
    rows = [(kind, f"{p50(samples) * 1000:.0f} ms") for kind, samples in creates.items()]
    print(f"\n{table(('create -> first exec', f'p50 of {_CREATES}'), rows)}\n")
    rows = [(kind, f"{p50(samples):.1f} MiB/s") for kind, samples in rates.items()]
    print(table(("from a server behind the host", f"p50 of {_TURNS}"), rows))


async def _fetched(fleet: Fleet) -> float:
    line = _FETCH.format(address=_SITE, port=_PORT)
    outcome = await fleet.guest.exec(OWNER, "box", Command(shell=line), wait_ms=_WAIT_MS)
    assert outcome.exit_code == 0, outcome.stderr.data()
    return float(outcome.stdout.data())


@asynccontextmanager
async def _tapped(settings: TapSettings) -> AsyncGenerator[tuple[Taps, Listener, KernelLog]]:
    with Listener.open(settings.gateway.ip) as listener, KernelLog.open() as kernel:
        taps = await Taps.open(settings, denied=denied_networks(HostRules()), ports=listener.ports)
        yield taps, listener, kernel
        await taps.aclose()


@asynccontextmanager
async def _fleet(tapped: tuple[Taps, Listener, KernelLog] | None) -> AsyncGenerator[Fleet]:
    taps = tapped[0] if tapped else None
    gateway = Gateway(
        default=Policy.parse("internet"), host=HostRules, clock=lambda: time.time_ns() // 1_000_000, taps=taps
    )
    host = await this_host(taps)
    async with (
        scratch() as place,
        anyio.create_task_group() as tasks,
        opened(place, gateway=gateway, host=host) as fleet,
    ):
        if tapped:
            tasks.start_soon(gateway.serve_taps, *tapped[1:])
        await fleet.prepare("code", cpu=1, mem=1024)
        yield fleet
        for sandbox in (await fleet.sandboxes.list(OWNER, limit=100)).items:
            await fleet.sandboxes.delete(OWNER, sandbox.id)
        tasks.cancel_scope.cancel()


@contextmanager
def _as_it_is() -> Generator[None]:
    yield


@contextmanager
def _without_rules(settings: TapSettings) -> Generator[None]:
    """Forward and masquerade everything, for the length of a block."""
    name = settings.bridge
    kept = {kind: _listed(kind, name) for kind in ("ip", "bridge")}
    drop = "".join(f"delete table {kind} {name}\n" for kind in kept)
    rule = f"type nat hook postrouting priority srcnat; ip saddr {settings.gateway.network} masquerade;"
    nft.run(f"{drop}table ip bare {{\n chain leaving {{ {rule} }}\n}}")
    try:
        yield
    finally:
        nft.run("delete table ip bare\n" + "".join(kept.values()))


def _listed(kind: str, name: str) -> str:
    listed = ["nft", "list", "table", kind, name]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout


@contextmanager
def _internet() -> Generator[None]:
    """A namespace behind this one, with a server."""
    world = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-m", "bench.taps", "world"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert world.stdin is not None
    assert world.stdout is not None
    try:
        world.stdout.readline()
        _ip("link add uplink type veth peer name router")
        _ip(f"link set router netns {world.pid}")
        _ip(f"addr add {_UPLINK}/24 dev uplink")
        _ip("link set uplink up")
        _ip(f"route add default via {_ROUTER}")
        world.stdin.write(b"go\n")
        world.stdin.flush()
        world.stdout.readline()
        yield
    finally:
        world.kill()
        world.wait()


def _world() -> None:
    """Be that namespace: send much to everybody, until killed."""
    print("made", flush=True)
    sys.stdin.readline()
    for device, address in (("lo", f"{_SITE}/32"), ("router", f"{_ROUTER}/24")):
        _ip(f"addr add {address} dev {device}")
        _ip(f"link set {device} up")
    listener = socket.create_server((_SITE, _PORT))
    print("serves", flush=True)
    data = bytes(_MIB)
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=_send, args=(accepted, data), daemon=True).start()


def _send(accepted: socket.socket, data: bytes) -> None:
    with accepted:
        for _ in range(_SIZE_MIB):
            accepted.sendall(data)


def _left() -> tuple[int, int, int]:
    """Count devices, elements of our sets, and descriptors."""
    listed = subprocess.run(["nft", "--json", "list", "ruleset"], capture_output=True, check=True).stdout
    elements = sum(len(found["set"].get("elem", ())) for found in json.loads(listed)["nftables"] if "set" in found)
    return len(socket.if_nameindex()), elements, len(list(Path("/proc/self/fd").iterdir()))


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["world"]:
            _world()
        case ["inside"]:
            _ip("link set lo up")
            anyio.run(main)
        case _:
            inside = ["unshare", "--net", sys.executable, "-m", "bench.taps", "inside"]
            sys.exit(subprocess.run(inside, check=False).returncode)
