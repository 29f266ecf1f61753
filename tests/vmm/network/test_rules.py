"""Which names are answered and which connections are made, for each policy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import InvalidInput
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, Rules, denied_networks, opened_networks

WORLD = IPv4Address("198.51.100.7")
OTHER = IPv4Address("192.0.2.9")
OWN = IPv4Address("203.0.113.5")
HOST = HostRules(packages=("packages.example.org", "*.mirror.example.org"), own=(OWN,))


def rules(policy: str, host: HostRules = HOST) -> Rules:
    return Rules(Policy.parse(policy), host)


def opened(*networks: str) -> HostRules:
    return HostRules(opened=tuple(IPv4Network(network) for network in networks), own=(OWN,))


def edges(block: IPv4Network) -> set[IPv4Address]:
    return {block.network_address, block.broadcast_address, block[block.num_addresses // 2]}


BLOCKS = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
DANGEROUS = sorted({address for block in BLOCKS for address in edges(IPv4Network(block))} | {OWN})
OPEN_POLICIES = ["internet", "learn", "packages", "0.0.0.0/1,128.0.0.0/1,example.com"]


@pytest.mark.parametrize("policy", OPEN_POLICIES)
@pytest.mark.parametrize("address", DANGEROUS, ids=str)
def test_no_policy_reaches_the_host_its_neighbours_or_its_cloud(policy: str, address: IPv4Address) -> None:
    names = {"example.com", "packages.example.org"}  # a name that is allowed does not help
    verdict = rules(policy).connection(address, 443, names)
    assert not verdict.allowed
    assert str(address) in verdict.reason
    answer = rules(policy).answer(address)
    assert not answer.allowed
    assert answer.reason == verdict.reason.replace(f" {address}", "")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.1", "private address 10.0.0.1"),
        ("172.31.255.255", "private address 172.31.255.255"),
        ("127.0.0.53", "loopback address 127.0.0.53"),
        ("169.254.169.254", "link-local address 169.254.169.254"),
        ("100.100.100.200", "shared address 100.100.100.200"),
        ("168.63.129.16", "metadata address 168.63.129.16"),
        ("224.0.0.251", "multicast address 224.0.0.251"),
        ("255.255.255.255", "broadcast address 255.255.255.255"),
        ("203.0.113.5", "address 203.0.113.5 of the host"),
    ],
)
def test_a_refusal_says_what_the_address_is(address: str, reason: str) -> None:
    assert rules("internet").connection(IPv4Address(address), 80, ()).reason == reason


@pytest.mark.parametrize(
    "beside",
    ["9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "100.63.255.255",
     "100.128.0.0", "169.253.255.255", "169.255.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "1.0.0.0",
     "192.0.1.0", "168.63.129.17", "203.0.113.6"],
)  # fmt: skip
def test_addresses_beside_denied_blocks_are_the_internet(beside: str) -> None:
    assert rules("internet").connection(IPv4Address(beside), 22, ()).allowed


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_whatever_python_calls_local_is_denied(address: IPv4Address) -> None:
    denied = address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved
    if denied or address.is_unspecified:
        assert not rules("internet").connection(address, 443, ()).allowed


@pytest.mark.parametrize("policy", ["internet", "learn"])
def test_the_internet_is_every_name_and_port(policy: str) -> None:
    box = rules(policy)
    assert box.name("anything.example.net").allowed
    assert box.answer(WORLD).allowed
    assert box.connection(WORLD, 6697, ()).allowed
    assert not box.checks_names
    assert box.announced(None, 443).allowed


def test_none_is_nothing() -> None:
    box = rules("none")
    for verdict in (
        box.name("example.com"),
        box.answer(WORLD),
        box.connection(WORLD, 443, {"example.com"}),
        box.announced("example.com", 443),
        box.announced(None, 443),
    ):
        assert not verdict.allowed
        assert verdict.reason == 'policy "none"'


def test_packages_are_the_registries_and_nothing_else() -> None:
    box = rules("packages")
    assert box.name("packages.example.org").allowed
    assert box.name("files.mirror.example.org").allowed
    assert box.name("example.com").reason == 'policy "packages"'
    assert box.connection(WORLD, 443, {"packages.example.org"}).by_name
    assert box.connection(WORLD, 443, {"example.com"}).reason == 'policy "packages"'
    assert not box.connection(WORLD, 443, ()).allowed
    assert box.announced("packages.example.org", 443).allowed
    assert not box.announced("example.com", 443).allowed
    assert not Rules(Policy.parse("packages"), HostRules()).name("packages.example.org").allowed


def test_an_allowed_name_opens_every_port_of_its_addresses_alone() -> None:
    box = rules("example.com,*.example.org")
    assert box.connection(WORLD, 5432, {"example.com"}).allowed
    assert box.connection(WORLD, 22, {"other.example.net", "db.example.org"}).allowed
    assert box.connection(OTHER, 5432, ()).reason == 'policy "allow"'
    assert not box.connection(WORLD, 443, {"other.example.net"}).allowed
    assert not box.name("other.example.net").allowed


def test_connections_under_an_allowed_name_are_decided_by_the_announced_name_as_well() -> None:
    box = rules("example.com")
    assert box.checks_names
    assert [box.connection(WORLD, port, {"example.com"}).by_name for port in (80, 443, 8443)] == [True] * 3
    assert box.announced("Example.com.", 443).allowed
    assert box.announced("neighbour.example.net", 443).reason == 'policy "allow"'
    assert box.announced(None, 443).reason == 'policy "allow", which needs a name in Host or SNI'
    assert not box.announced("", 80).allowed


def test_an_allowed_network_needs_no_name() -> None:
    box = rules("example.com,198.51.100.0/24")
    verdict = box.connection(WORLD, 443, {"example.com"})
    assert verdict.allowed
    assert not verdict.by_name
    assert not box.connection(OTHER, 443, ()).allowed


def test_ports_limit_the_whole_list() -> None:
    box = rules("example.com,198.51.100.7,443/tcp")
    assert box.connection(WORLD, 443, ()).allowed
    assert box.connection(OTHER, 443, {"example.com"}).allowed
    assert not box.connection(WORLD, 80, ()).allowed
    assert not box.connection(OTHER, 80, {"example.com"}).allowed
    assert not box.announced("example.com", 80).allowed


@pytest.mark.parametrize("policy", ["internet", "198.51.100.0/24", "example.com,198.51.100.7"])
def test_what_is_not_tcp_is_allowed_by_its_address(policy: str) -> None:
    assert rules(policy).packet(WORLD, ()).allowed


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("none", 'policy "none"'),
        ("learn", 'policy "learn", which opens TCP only'),
        ("example.com", 'policy "allow", whose names open TCP only'),
        ("example.net", 'policy "allow"'),
        ("198.51.100.7,443/tcp", 'policy "allow", whose ports are those of TCP'),
        ("packages", 'policy "packages"'),
    ],
)
def test_what_is_not_tcp_is_allowed_by_nothing_else(policy: str, reason: str) -> None:
    verdict = rules(policy).packet(WORLD, {"example.com"})
    assert not verdict.allowed
    assert verdict.reason == reason


@pytest.mark.parametrize("policy", OPEN_POLICIES)
@pytest.mark.parametrize("address", DANGEROUS, ids=str)
def test_what_is_not_tcp_leads_nowhere_inwards(policy: str, address: IPv4Address) -> None:
    verdict = rules(policy).packet(address, {"example.com", "packages.example.org"})
    assert not verdict.allowed
    assert verdict.reason == rules(policy).connection(address, 443, ()).reason


def test_networks_are_those_of_the_list_or_the_registries() -> None:
    assert rules("example.com,198.51.100.0/24").networks == (IPv4Network("198.51.100.0/24"),)
    host = HostRules(packages=("packages.example.org", "198.51.100.7"))
    assert rules("packages", host).networks == (IPv4Network("198.51.100.7"),)
    assert rules("internet", host).networks == ()


def test_an_opened_network_is_reached_where_the_policy_allows_it() -> None:
    inside, beside = IPv4Address("10.1.2.3"), IPv4Address("10.2.0.0")
    host = opened("10.1.0.0/16")
    assert rules("internet", host).connection(inside, 443, ()).allowed
    assert rules("internet", host).answer(inside).allowed
    assert not rules("internet", host).connection(beside, 443, ()).allowed
    assert rules("10.1.2.0/24", host).connection(inside, 443, ()).allowed
    assert rules("example.com", host).connection(inside, 443, {"example.com"}).allowed
    assert rules("example.com", host).connection(inside, 443, ()).reason == 'policy "allow"'
    assert not rules("none", host).connection(inside, 443, ()).allowed


@pytest.mark.parametrize("address", DANGEROUS, ids=str)
def test_an_opened_network_that_reaches_beyond_a_denied_block_opens_nothing_of_it(address: IPv4Address) -> None:
    assert not rules("internet", opened("0.0.0.0/0", "203.0.113.0/24")).connection(address, 443, ()).allowed


def test_the_host_itself_is_opened_by_its_very_address_alone() -> None:
    assert rules("internet", opened("203.0.113.5/32")).connection(OWN, 443, ()).allowed
    host = HostRules(opened=(IPv4Network("10.1.0.0/16"),), own=(IPv4Address("10.1.0.5"),))
    assert not rules("internet", host).connection(IPv4Address("10.1.0.5"), 443, ()).allowed


def test_entries_that_stay_closed_are_known_before_anything_runs() -> None:
    box = rules("10.1.0.0/16,169.254.169.254,198.51.100.0/24,203.0.113.5,203.0.113.0/24", opened("10.1.2.0/24"))
    assert [str(network) for network in box.closed()] == ["169.254.169.254/32", "203.0.113.5/32"]
    assert [str(network) for network in rules("10.1.0.0/16").closed()] == ["10.1.0.0/16"]
    assert rules("internet").closed() == ()


def test_a_registry_can_be_an_address() -> None:
    box = rules("packages", HostRules(packages=("packages.example.org", "198.51.100.7", "192.0.2.0/28")))
    assert box.connection(WORLD, 443, ()).allowed
    assert not box.connection(WORLD, 443, ()).by_name
    assert box.connection(OTHER, 443, ()).allowed
    assert not box.connection(IPv4Address("192.0.2.16"), 443, ()).allowed


def test_an_operator_opens_networks_within_denied_blocks() -> None:
    networks = opened_networks("10.1.0.0/16, 203.0.113.5,", field="CASEMATE_NETWORK_OPEN")
    assert networks == (IPv4Network("10.1.0.0/16"), IPv4Network("203.0.113.5"))
    assert opened_networks("", field="CASEMATE_NETWORK_OPEN") == ()


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "8.0.0.0/5", "198.51.100.0/24", "example.com", "10.1.2.3/16", "fd00::/8"]
)
def test_other_networks_are_not_opened(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^CASEMATE_NETWORK_OPEN must "):
        opened_networks(text, field="CASEMATE_NETWORK_OPEN")


def test_what_is_denied_to_all_is_what_leads_inwards_and_the_hosts_own_addresses_less_what_is_opened() -> None:
    opened = (IPv4Network("10.1.0.0/16"), IPv4Network("203.0.113.6/32"), IPv4Network("0.0.0.0/0"))
    own = (IPv4Address("203.0.113.5"), IPv4Address("203.0.113.6"))
    denied = denied_networks(HostRules(opened=opened, own=own))

    def covers(address: str) -> bool:
        return any(IPv4Address(address) in network for network in denied)

    assert all(map(covers, ("10.0.0.1", "10.2.0.1", "127.0.0.1", "169.254.169.254", "203.0.113.5", "224.0.0.1")))
    assert not any(map(covers, ("10.1.2.3", "203.0.113.6", "198.51.100.7")))
