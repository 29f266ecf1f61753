"""The addresses of a network, each lent to one sandbox at a time."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from vmm.errors import Conflict, HostExhausted
from vmm.network.taps.leases import Leases

GATEWAY = IPv4Interface("10.41.0.1/29")
ALL = [IPv4Address(f"10.41.0.{number}") for number in range(2, 7)]


def test_all_addresses_are_lent_except_the_hosts_and_those_of_the_network() -> None:
    leases = Leases(GATEWAY)
    assert [leases.lend() for _ in range(leases.size)] == ALL
    assert len(leases) == len(ALL)


def test_a_full_pool_says_so_and_what_to_do() -> None:
    leases = Leases(GATEWAY)
    for _ in ALL:
        leases.lend()
    with pytest.raises(HostExhausted, match=r"address pool is full: all 5 addresses of 10\.41\.0\.0/29.*NETWORK_CIDR"):
        leases.lend()


def test_what_came_back_last_is_lent_last() -> None:
    leases = Leases(GATEWAY)
    first, second = leases.lend(), leases.lend()
    leases.give_back(second)
    leases.give_back(first)
    assert [leases.lend() for _ in range(5)] == [*ALL[2:], second, first]


def test_a_claimed_address_is_not_lent_to_another() -> None:
    leases = Leases(GATEWAY)
    leases.claim(ALL[1])
    assert [leases.lend() for _ in range(4)] == [ALL[0], *ALL[2:]]
    leases.give_back(ALL[1])
    assert leases.lend() == ALL[1]


def test_a_claimed_address_that_came_back_before_its_turn_is_lent_once() -> None:
    leases = Leases(GATEWAY)
    leases.claim(ALL[1])
    leases.give_back(ALL[1])
    assert sorted(leases.lend() for _ in range(5)) == ALL
    with pytest.raises(HostExhausted):
        leases.lend()


def test_an_address_that_came_back_can_be_claimed() -> None:
    leases = Leases(GATEWAY)
    address = leases.lend()
    leases.give_back(address)
    leases.claim(address)
    assert address not in {leases.lend() for _ in range(4)}


@pytest.mark.parametrize("address", ["10.41.0.0", "10.41.0.1", "10.41.0.7", "10.41.0.9", "10.41.0.2"])
def test_what_is_lent_or_no_guests_cannot_be_claimed(address: str) -> None:
    leases = Leases(GATEWAY)
    leases.lend()
    with pytest.raises(Conflict, match=address):
        leases.claim(IPv4Address(address))
