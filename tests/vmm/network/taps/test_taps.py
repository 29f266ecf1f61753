"""Taps as machines come and go: addresses, elements of the tables, and what is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.vmm.network.taps.conftest import PORTS
from tests.vmm.network.taps.guests import Guest
from tests.vmm.network.taps.namespaces import Namespace
from tests.vmm.network.taps.world import SITE, World
from tests.waiting import until
from vmm.errors import Conflict, HostExhausted, Unavailable
from vmm.hypervisor.nic import Nics
from vmm.network.taps import conntrack
from vmm.network.taps import host as host_side
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.network.taps.settings import TapSettings
from vmm.network.taps.tap_ways import TapNetwork
from vmm.network.taps.taps import Taps

Guests = Callable[[str], AbstractAsyncContextManager[Guest]]
INTERNET = FastPath(internet=True)
LISTED = FastPath(networks=(IPv4Network("198.51.100.0/24"), IPv4Network("192.0.2.7/32")), ports=(80, 443))

pytestmark = pytest.mark.anyio


async def test_a_machine_gets_an_address_and_a_device_of_its_own(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    async with taps.attached(tmp_path / "a") as (one, first), taps.attached(tmp_path / "b") as (two, second):
        assert one.address == IPv4Interface("10.41.0.2")
        assert two.address == IPv4Interface("10.41.0.3")
        assert one.mac == "02:00:0a:29:00:02"
        assert one.gateway == two.gateway == IPv4Address("10.41.0.1")
        assert first != second
        assert len(taps) == 2
        assert taps.address(tmp_path / "b") == two.address.ip
        assert devices(host) == {"cmt0002", "cmt0003"}


async def test_the_device_lasts_as_long_as_somebody_holds_its_descriptor(
    taps: Taps, host: Namespace, tmp_path: Path
) -> None:
    async with taps.attached(tmp_path / "a") as (_, descriptor):
        held = os.dup(descriptor)
    assert devices(host) == {"cmt0002"}
    os.close(held)
    await until(lambda: not devices(host))


async def test_release_leaves_nothing_behind(taps: Taps, host: Namespace, guest: Guests, internet: World) -> None:
    before = everything(host)
    async with guest("a") as one:
        for fast in (INTERNET, LISTED, CLOSED, LISTED):
            await taps.allow(one.nic.address.ip, fast)
        assert await one.asks("10.41.0.1", 53) == b"resolver"
        with pytest.raises(OSError, match="No route"):
            await one.asks("192.0.2.9", 9)
        assert everything(host) != before
    await until(lambda: not devices(host))
    assert everything(host) == before
    assert len(taps) == 0


async def test_release_may_be_repeated(taps: Taps, tmp_path: Path) -> None:
    await taps.release(tmp_path / "never made")
    async with taps.attached(tmp_path / "a"):
        pass
    await taps.release(tmp_path / "a")
    await taps.release(tmp_path / "a")


@pytest.mark.parametrize("forget", [conntrack.forget, conntrack.forget_each])
async def test_connections_of_an_address_are_forgotten_before_it_is_lent_again(
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[IPv4Address], None],
    taps: Taps,
    guest: Guests,
    host: Namespace,
    internet: World,
) -> None:
    monkeypatch.setattr(conntrack, "forget", forget)
    async with guest("a") as one, guest("b") as two:
        for found in (one, two):
            await taps.allow(found.nic.address.ip, INTERNET)
            assert await found.hears(SITE, 5000) == b"hello"
        assert {"10.41.0.2", "10.41.0.3"} <= tracked(host)
        await taps.release(one.directory)
        assert "10.41.0.2" not in tracked(host)
        assert "10.41.0.3" in tracked(host)


async def test_a_kernel_that_forgets_no_connections_is_no_reason_to_keep_an_address(
    taps: Taps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(address: IPv4Address) -> None:
        raise OSError(95, f"Operation not supported for {address}")

    monkeypatch.setattr(conntrack, "forget", cannot)
    for name in ("a", "b"):
        async with taps.attached(tmp_path / name):
            pass
        await taps.release(tmp_path / name)
    assert len(taps) == 0


async def test_a_block_that_raises_undoes_everything(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    before = everything(host)
    with pytest.raises(ZeroDivisionError):
        async with taps.attached(tmp_path / "a") as (nic, _):
            await taps.allow(nic.address.ip, INTERNET)
            raise ZeroDivisionError
    assert everything(host) == before
    assert not devices(host)
    assert len(taps) == 0


async def test_a_machine_that_starts_again_has_one_tap(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    async with taps.attached(tmp_path / "a") as (one, _):
        await taps.allow(one.address.ip, INTERNET)
    async with taps.attached(tmp_path / "a") as (two, _):
        await taps.allow(two.address.ip, INTERNET)
        assert len(taps) == 1
        assert elements(host, "internet") == [str(two.address.ip)]


async def test_a_device_that_another_program_holds_is_left_alone(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    async with taps.attached(tmp_path / "a") as (_, descriptor):
        held = os.dup(descriptor)
    await taps.release(tmp_path / "a")
    again = Taps(taps.settings)
    async with again.attached(tmp_path / "b") as (nic, _):
        assert nic.address.ip == IPv4Address("10.41.0.3")
        assert devices(host) == {"cmt0002", "cmt0003"}
    os.close(held)
    await again.release(tmp_path / "b")


async def test_a_full_pool_says_so_and_a_release_makes_room(host: Namespace, tmp_path: Path) -> None:
    taps = await opened(TapSettings.read({"NETWORK_CIDR": "10.41.0.0/29"}))
    async with AsyncExitStack() as stack:
        for number in range(5):
            await stack.enter_async_context(taps.attached(tmp_path / str(number)))
        with pytest.raises(HostExhausted, match=r"The address pool is full.*NETWORK_CIDR"):
            await stack.enter_async_context(taps.attached(tmp_path / "one too many"))
        await taps.release(tmp_path / "3")
    async with taps.attached(tmp_path / "after it") as (nic, _):
        assert nic.address.ip == IPv4Address("10.41.0.5")


async def test_an_adopted_machine_keeps_its_address_and_has_a_network_from_its_policy_on(
    taps: Taps, guest: Guests, host: Namespace, internet: World
) -> None:
    async with guest("a") as one:
        await taps.allow(one.nic.address.ip, INTERNET)
        again = await opened(taps.settings)
        assert elements(host, "internet") == []
        await again.adopt(one.directory, one.nic)
        await again.adopt(one.directory, one.nic)
        assert again.address(one.directory) == one.nic.address.ip
        assert bindings(host) == []
        await again.allow(one.nic.address.ip, LISTED)
        assert await one.hears(SITE, 80) == b"hello"
        async with again.attached(one.directory.with_name("b")) as (nic, _):
            assert nic.address != one.nic.address
        await again.release(one.directory)
        assert elements(host, "networks") == []


async def test_an_adopted_machine_is_on_the_bridge_again_if_that_was_made_anew(
    taps: Taps, guest: Guests, host: Namespace
) -> None:
    async with guest("a") as one:
        host.run(lambda: host_side.down(taps.settings))
        again = await opened(taps.settings)
        await again.adopt(one.directory, one.nic)
        await again.allow(one.nic.address.ip, CLOSED)
        with host.run(lambda: socket.socket(type=socket.SOCK_DGRAM)) as own:
            own.setblocking(False)
            own.bind(("10.41.0.1", 0))
            port = own.getsockname()[1]
            assert await one.hears("10.41.0.1", port) == f"redirected from 10.41.0.1:{port}".encode()
        await again.release(one.directory)


async def test_the_next_server_forgets_machines_that_ended_meanwhile_and_no_others(
    taps: Taps,
    host: Namespace,
    guest: Guests,
    internet: World,
    settings: TapSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def killed(_: Path) -> None:
        return

    async with guest("kept") as kept:
        async with guest("gone") as gone:
            for found in (kept, gone):
                await taps.allow(found.nic.address.ip, INTERNET)
                assert await found.hears(SITE, 5000) == b"hello"
            monkeypatch.setattr(taps, "release", killed)
        monkeypatch.undo()
        await until(lambda: len(devices(host)) == 1)
        assert {kept.address, gone.address} <= tracked(host) & neighbours(host)
        await (await opened(settings)).sweep()
        assert tracked(host) & neighbours(host) & {kept.address, gone.address} == {kept.address}
        assert gone.address not in tracked(host) | neighbours(host)


@pytest.mark.parametrize("change", ["gateway", "network", "mac", "address", "no tap", "lent"])
async def test_a_machine_whose_address_does_not_fit_is_not_adopted(taps: Taps, tmp_path: Path, change: str) -> None:
    async with taps.attached(tmp_path / "a") as (nic, _):
        await taps.allow(nic.address.ip, INTERNET)
        changed = {
            "gateway": replace(nic, gateway=IPv4Address("10.41.0.9")),
            "network": replace(nic, address=IPv4Interface("10.41.0.2/17")),
            "mac": replace(nic, mac="02:00:0a:29:00:03"),
            "address": replace(nic, mac="02:00:0a:2a:00:02", address=IPv4Interface("10.42.0.2")),
            "no tap": replace(nic, mac="02:00:0a:29:00:09", address=IPv4Interface("10.41.0.9")),
            "lent": nic,
        }
        with pytest.raises(Conflict):
            await taps.adopt(tmp_path / "b", changed[change])
        assert taps.address(tmp_path / "b") is None
        assert taps.address(tmp_path / "a") == nic.address.ip


async def test_what_is_allowed_is_replaced_in_one_step_or_not_at_all(
    taps: Taps, host: Namespace, tmp_path: Path
) -> None:
    async with taps.attached(tmp_path / "a") as (nic, _):
        await taps.allow(nic.address.ip, LISTED)
        assert len(elements(host, "networks")) == len(elements(host, "ports")) == 2
        host.nft("delete element bridge casemate0 bindings { cmt0002 . 02:00:0a:29:00:02 . 10.41.0.2 }")
        host.nft("delete element ip casemate0 ports { 10.41.0.2 . 443 }")
        with pytest.raises(Unavailable, match="nft refused the rules"):
            await taps.allow(nic.address.ip, INTERNET)
        assert elements(host, "internet") == []
        assert len(elements(host, "networks")) == 2
        await taps.allow(nic.address.ip, LISTED)
    await taps.release(tmp_path / "a")
    assert elements(host, "networks") == elements(host, "ports") == []


async def test_an_address_that_no_machine_has_is_allowed_nothing(taps: Taps, host: Namespace) -> None:
    await taps.allow(IPv4Address("10.41.0.77"), INTERNET)
    assert elements(host, "internet") == []


async def test_networks_that_overlap_are_taken(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    async with taps.attached(tmp_path / "a") as (nic, _):
        networks = tuple(map(IPv4Network, ("198.51.100.0/24", "198.51.100.0/25", "198.51.101.0/24", "192.0.2.1/32")))
        await taps.allow(nic.address.ip, FastPath(networks=networks))
        assert len(elements(host, "networks")) == 2
        await taps.allow(nic.address.ip, FastPath(networks=networks[1:2]))
        assert len(elements(host, "networks")) == 1
    await taps.release(tmp_path / "a")


async def test_hundreds_of_machines_come_and_go_without_a_trace(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    before, descriptors = everything(host), open_files()
    for number in range(200):
        async with taps.attached(tmp_path / "a") as (nic, _):
            await taps.allow(nic.address.ip, LISTED if number % 2 else INTERNET)
        await taps.release(tmp_path / "a")
    await until(lambda: not devices(host))
    assert everything(host) == before
    assert open_files() == descriptors


async def test_machines_that_start_at_once_have_each_their_own(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    before = everything(host)
    found: list[IPv4Address] = []

    async def live(name: str) -> None:
        async with taps.attached(tmp_path / name) as (nic, _):
            found.append(nic.address.ip)
            await taps.allow(nic.address.ip, INTERNET)
            await taps.allow(nic.address.ip, LISTED)
        await taps.release(tmp_path / name)

    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(live, str(number))
    assert len(set(found)) == 40
    await until(lambda: not devices(host))
    assert everything(host) == before


async def test_a_start_that_is_cancelled_leaves_nothing(taps: Taps, host: Namespace, tmp_path: Path) -> None:
    before = everything(host)
    for checkpoints in range(12):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancelled_after, scope, checkpoints)
                async with taps.attached(tmp_path / "a") as (nic, _):
                    await taps.allow(nic.address.ip, INTERNET)
                    await anyio.sleep_forever()
        assert len(taps) == 0
        assert everything(host) == before
    await until(lambda: not devices(host))


async def cancelled_after(scope: anyio.CancelScope, checkpoints: int) -> None:
    for _ in range(checkpoints):
        await anyio.to_thread.run_sync(lambda: None)  # about as long as a step of the other
    scope.cancel()


def test_taps_are_what_drivers_and_the_gateway_ask_for(settings: TapSettings) -> None:
    nics: Nics = Taps(settings)
    network: TapNetwork = Taps(settings)
    assert nics != network


async def opened(settings: TapSettings) -> Taps:
    return await Taps.open(settings, denied=[IPv4Network("10.0.0.0/8")], ports=PORTS)


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def devices(host: Namespace) -> set[str]:
    shown = json.loads(command(host, "ip", "-json", "link", "show", "type", "tun"))
    return {link["ifname"] for link in shown if link}


def elements(host: Namespace, name: str) -> list[Any]:
    return listed(host, "ip", name)


def bindings(host: Namespace) -> list[Any]:
    return listed(host, "bridge", "bindings")


def everything(host: Namespace) -> str:
    """The tables with all elements, and who is a neighbour of the bridge."""
    tables = command(host, "nft", "list", "ruleset")
    return tables + command(host, "ip", "neigh", "show", "dev", "casemate0", "nud", "permanent")


def neighbours(host: Namespace) -> set[str]:
    shown = json.loads(command(host, "ip", "-json", "neigh", "show", "dev", "casemate0", "nud", "permanent"))
    return {entry["dst"] for entry in shown}


def tracked(host: Namespace) -> set[str]:
    """The addresses that connections come from."""
    text = host.run(lambda: Path("/proc/thread-self/net/nf_conntrack").read_text())
    return {word.removeprefix("src=") for word in text.split() if word.startswith("src=")}


def listed(host: Namespace, family: str, name: str) -> list[Any]:
    found = json.loads(command(host, "nft", "--json", "list", "set", family, "casemate0", name))
    return next(entry["set"] for entry in found["nftables"] if "set" in entry).get("elem", [])


def command(host: Namespace, *words: str) -> str:
    return host.run(lambda: subprocess.run(words, capture_output=True, text=True, check=True).stdout)
