"""Where taps are, as an operator sets it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import InvalidInput
from vmm.network.taps.settings import LONGEST_NAME, TapSettings, mac

PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


def test_nothing_needs_to_be_set() -> None:
    assert TapSettings.read({}) == TapSettings(bridge="casemate0", gateway=IPv4Interface("10.41.0.1/16"), prefix="cmt")


def test_an_empty_variable_is_as_one_that_is_not_set() -> None:
    names = ("BRIDGE_NAME", "GATEWAY_IP", "NETWORK_CIDR", "SUBNET_PREFIX", "TAP_PREFIX")
    assert TapSettings.read(dict.fromkeys(names, "")) == TapSettings.read({})


def test_settings_of_voidrun_are_understood() -> None:
    found = TapSettings.read(
        {
            "BRIDGE_NAME": "vmbr0",
            "GATEWAY_IP": "192.168.100.1/22",
            "NETWORK_CIDR": "192.168.100.0/22",
            "SUBNET_PREFIX": "192.168.100.",
            "TAP_PREFIX": "ttap-",
        }
    )
    assert found == TapSettings(bridge="vmbr0", gateway=IPv4Interface("192.168.100.1/22"), prefix="ttap-")


@pytest.mark.parametrize(
    ("environment", "gateway"),
    [
        ({"NETWORK_CIDR": "172.20.0.0/20"}, "172.20.0.1/20"),
        ({"GATEWAY_IP": "192.168.7.254/24"}, "192.168.7.254/24"),
        ({"GATEWAY_IP": "192.168.7.9", "NETWORK_CIDR": "192.168.7.0/24"}, "192.168.7.9/24"),
        ({"GATEWAY_IP": "10.41.200.1"}, "10.41.200.1/16"),
        ({"NETWORK_CIDR": "10.0.0.8/29"}, "10.0.0.9/29"),
    ],
)
def test_the_gateway_and_the_network_follow_from_each_other(environment: dict[str, str], gateway: str) -> None:
    assert TapSettings.read(environment).gateway == IPv4Interface(gateway)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BRIDGE_NAME": "a-name-of-16-chr"}, "BRIDGE_NAME must be at most 15 letters.*'a-name-of-16-chr'"),
        ({"BRIDGE_NAME": "br 0"}, "BRIDGE_NAME must be"),
        ({"BRIDGE_NAME": "br0; flush ruleset"}, "BRIDGE_NAME must be"),
        ({"BRIDGE_NAME": "../all"}, "BRIDGE_NAME must be"),
        ({"TAP_PREFIX": "twelve-chars"}, "TAP_PREFIX must be at most 11 letters"),
        ({"TAP_PREFIX": "t*"}, "TAP_PREFIX must be"),
        ({"TAP_PREFIX": "case"}, "TAP_PREFIX must be unlike the beginning of the bridge's name 'casemate0'"),
        ({"NETWORK_CIDR": "10.41.0.1/16"}, "NETWORK_CIDR must be an IPv4 network without host bits"),
        ({"NETWORK_CIDR": "fd00::/64"}, "NETWORK_CIDR must be an IPv4 network"),
        ({"NETWORK_CIDR": "10.0.0.0/8"}, "NETWORK_CIDR must have a length from /16 to /29, got '10.0.0.0/8'"),
        ({"NETWORK_CIDR": "10.0.0.0/30"}, "NETWORK_CIDR must have a length"),
        ({"NETWORK_CIDR": "203.0.113.0/24"}, "NETWORK_CIDR must be a private network, got '203.0.113.0/24'"),
        ({"NETWORK_CIDR": "100.64.0.0/16"}, "NETWORK_CIDR must be a private network"),
        ({"GATEWAY_IP": "gateway"}, "GATEWAY_IP must be an address"),
        ({"GATEWAY_IP": "8.8.8.8/24"}, "GATEWAY_IP must be a private network"),
        ({"GATEWAY_IP": "10.41.0.1/8"}, "GATEWAY_IP must have a length"),
        ({"GATEWAY_IP": "10.42.0.1"}, "GATEWAY_IP must be an address for a host in 10.41.0.0/16, got '10.42.0.1'"),
        ({"GATEWAY_IP": "10.42.0.0/16"}, "GATEWAY_IP must be an address for a host in 10.42.0.0/16"),
        ({"GATEWAY_IP": "10.42.255.255/16"}, "GATEWAY_IP must be an address for a host"),
        ({"GATEWAY_IP": "10.42.0.1/24", "NETWORK_CIDR": "10.42.0.0/16"}, "GATEWAY_IP must have the length of"),
        ({"SUBNET_PREFIX": "192.168.100."}, "SUBNET_PREFIX must be what addresses of 10.41.0.0/16 begin with"),
        ({"SUBNET_PREFIX": "10.41"}, "SUBNET_PREFIX must be what"),
        ({"SUBNET_PREFIX": "10.41.0.0.0."}, "SUBNET_PREFIX must be what"),
        ({"SUBNET_PREFIX": "ten."}, "SUBNET_PREFIX must be what"),
    ],
)
def test_what_has_no_sense_is_refused_by_its_name_and_value(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TapSettings.read(environment)


addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.sampled_from(PRIVATE).flatmap(lambda block: st.integers(0, block.num_addresses - 1).map(lambda n: block[n])),
)
gateways = st.tuples(addresses, st.integers(14, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}")


@given(gateway=st.one_of(gateways, st.text(max_size=20)), prefix=st.text(max_size=14), bridge=st.text(max_size=18))
def test_what_is_accepted_is_safe_in_commands_and_names_no_more_than_a_private_network(
    gateway: str, prefix: str, bridge: str
) -> None:
    try:
        found = TapSettings.read({"GATEWAY_IP": gateway, "TAP_PREFIX": prefix, "BRIDGE_NAME": bridge})
    except InvalidInput:
        return
    network = found.gateway.network
    assert any(network.subnet_of(block) for block in PRIVATE)
    assert 16 <= network.prefixlen <= 29
    assert found.gateway.ip not in {network.network_address, network.broadcast_address}
    for name in (found.bridge, found.tap(network[2])):
        assert len(name) <= LONGEST_NAME
        assert name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def test_a_tap_and_its_hardware_address_are_named_by_the_address() -> None:
    settings = TapSettings.read({})
    assert settings.tap(IPv4Address("10.41.1.10")) == "cmt010a"
    assert mac(IPv4Address("10.41.1.10")) == "02:00:0a:29:01:0a"
