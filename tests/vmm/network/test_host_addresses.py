"""The host's own addresses are those of its interfaces."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from vmm.network.host_addresses import host_addresses

TABLE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 198.51.100.0/24 2 0 2
        |-- 198.51.100.0
           /24 link UNICAST
        |-- 198.51.100.2
           /24 link UNICAST
           /32 host LOCAL
        |-- 198.51.100.255
           /32 link BROADCAST
Local:
        |-- 198.51.100.2
           /32 host LOCAL
        |-- 192.0.2.9
           /32 host LOCAL
"""


def test_addresses_are_read_once_each_without_networks_and_loopback(tmp_path: Path) -> None:
    table = tmp_path / "fib_trie"
    table.write_text(TABLE)
    assert host_addresses(table) == (IPv4Address("192.0.2.9"), IPv4Address("198.51.100.2"))


def test_a_kernel_that_does_not_tell_has_none(tmp_path: Path) -> None:
    assert host_addresses(tmp_path / "nothing") == ()


def test_this_host_has_no_address_that_is_not_one() -> None:
    assert all(not address.is_loopback for address in host_addresses())
