"""The host's addresses are those that its kernel has, and are not asked for all the time."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import IPv4Address

import pytest

from vmm.network.own_addresses import FRESH_S, OwnAddresses, addresses


def test_the_loopback_is_an_address_of_the_host() -> None:
    assert IPv4Address("127.0.0.1") in addresses()


@pytest.mark.skipif(not shutil.which("ip"), reason="iproute2 is not installed")
def test_they_are_those_that_ip_lists() -> None:
    listed = subprocess.run(["ip", "-4", "-o", "addr"], check=True, capture_output=True, text=True).stdout
    expected = {IPv4Address(line.split()[3].partition("/")[0]) for line in listed.splitlines()}
    assert set(addresses()) == expected


def test_they_are_read_again_when_they_are_old() -> None:
    now = [0.0]
    found = [(IPv4Address("192.0.2.1"),), (IPv4Address("192.0.2.2"),)]
    own = OwnAddresses(lambda: found.pop(0), lambda: now[0])
    assert own() == own() == (IPv4Address("192.0.2.1"),)
    now[0] = FRESH_S
    assert own() == (IPv4Address("192.0.2.2"),)


def test_those_that_are_known_remain_while_they_cannot_be_read() -> None:
    now = [0.0]
    found = [(IPv4Address("192.0.2.1"),), (IPv4Address("192.0.2.2"),)]
    broken = [False]

    def read() -> tuple[IPv4Address, ...]:
        if broken[0]:
            raise OSError("too many open files")
        return found.pop(0)

    own = OwnAddresses(read, lambda: now[0])
    assert own() == (IPv4Address("192.0.2.1"),)
    now[0], broken[0] = FRESH_S, True
    assert own() == (IPv4Address("192.0.2.1"),)
    broken[0] = False
    assert own() == (IPv4Address("192.0.2.2"),)


def test_without_any_nothing_can_be_decided() -> None:
    def read() -> tuple[IPv4Address, ...]:
        raise OSError("too many open files")

    with pytest.raises(OSError, match="too many"):
        OwnAddresses(read)()
