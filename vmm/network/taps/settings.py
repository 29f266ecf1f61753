"""Where taps are: the bridge, its network, and the names of the taps, as an operator sets them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from storage.shown import shown

from ...errors import InvalidInput

BRIDGE_NAME, GATEWAY_IP, NETWORK_CIDR = "BRIDGE_NAME", "GATEWAY_IP", "NETWORK_CIDR"
SUBNET_PREFIX, TAP_PREFIX = "SUBNET_PREFIX", "TAP_PREFIX"

DEFAULT_BRIDGE = "casemate0"
DEFAULT_NETWORK = IPv4Network("10.41.0.0/16")
DEFAULT_PREFIX = "cmt"

LONGEST_NAME = 15
"""Characters of an interface's name (IFNAMSIZ without its zero byte)."""
_DIGITS = 4
"""Of a tap's name after the prefix: the last 16 bits of its address."""
_SHORTEST, _LONGEST = 16, 29
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSettings:
    """A bridge, and what is on it.

    Attributes:
        bridge: Its name, and that of its tables.
        gateway: Its address, with the length of the network.
        prefix: What the names of taps begin with.
    """

    bridge: str
    gateway: IPv4Interface
    prefix: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> TapSettings:
        """Read the settings by VoidRun's names; what is not set, or empty, has its default.

        GATEWAY_IP may have the length of the network, and NETWORK_CIDR may name the network alone, which then has its
        first address as gateway. SUBNET_PREFIX ("10.41.") follows from the network and is only compared with it.

        Raises:
            InvalidInput: One has no sense, or two of them contradict each other.
        """
        bridge = _name(BRIDGE_NAME, environment.get(BRIDGE_NAME) or DEFAULT_BRIDGE, LONGEST_NAME)
        prefix = _name(TAP_PREFIX, environment.get(TAP_PREFIX) or DEFAULT_PREFIX, LONGEST_NAME - _DIGITS)
        if bridge.startswith(prefix):
            raise InvalidInput(
                f"{TAP_PREFIX} must be unlike the beginning of the bridge's name {shown(bridge)}, got {shown(prefix)}",
                hint=f"Leave it out, which means {DEFAULT_PREFIX}",
            )
        gateway = _gateway(environment.get(GATEWAY_IP, ""), environment.get(NETWORK_CIDR, ""))
        _compare(environment.get(SUBNET_PREFIX, ""), gateway.network)
        return cls(bridge=bridge, gateway=gateway, prefix=prefix)

    def tap(self, address: IPv4Address) -> str:
        """Name the tap of an address."""
        return f"{self.prefix}{int(address) & 0xFFFF:0{_DIGITS}x}"


def mac(address: IPv4Address) -> str:
    """Return the hardware address of a guest, which is made of its address so that the two never disagree."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *address.packed))


def _name(field: str, value: str, longest: int) -> str:
    if _NAME.fullmatch(value) and len(value) <= longest:
        return value
    raise InvalidInput(
        f"{field} must be at most {longest} letters, digits, - and _, beginning with a letter, got {shown(value)}",
        hint=f"Leave it out, which means {DEFAULT_BRIDGE if field == BRIDGE_NAME else DEFAULT_PREFIX}",
    )


def _gateway(gateway: str, cidr: str) -> IPv4Interface:
    """Bring the two together, each of which may be missing."""
    address, _, length = gateway.partition("/")
    try:
        asked = IPv4Interface(gateway) if gateway else None
    except ValueError:
        raise InvalidInput(
            f"{GATEWAY_IP} must be an address with the length of its network, got {shown(gateway)}",
            hint="Write it as 10.41.0.1/16",
        ) from None
    network = _network(cidr) if cidr else asked.network if asked and length else DEFAULT_NETWORK
    field = NETWORK_CIDR if cidr or not length else GATEWAY_IP
    if not _SHORTEST <= network.prefixlen <= _LONGEST:
        raise InvalidInput(f"{field} must have a length from /{_SHORTEST} to /{_LONGEST}, got {shown(str(network))}")
    if not any(network.subnet_of(block) for block in _PRIVATE):
        raise InvalidInput(
            f"{field} must be a private network, got {shown(str(network))}",
            hint=f"Choose one in {', '.join(map(str, _PRIVATE))} that nothing else of the host uses",
        )
    chosen = IPv4Address(address) if address else network[1]
    if length and asked and asked.network != network:
        raise InvalidInput(
            f"{GATEWAY_IP} must have the length of {NETWORK_CIDR} {network}, got {shown(gateway)}",
            hint=f"Write it as {address}/{network.prefixlen}, or leave one of the two out",
        )
    if chosen not in network or chosen in {network.network_address, network.broadcast_address}:
        raise InvalidInput(
            f"{GATEWAY_IP} must be an address for a host in {network}, got {shown(gateway)}",
            hint=f"Leave it out, which means {network[1]}/{network.prefixlen}",
        )
    return IPv4Interface((chosen, network.prefixlen))


def _network(cidr: str) -> IPv4Network:
    try:
        return IPv4Network(cidr)
    except ValueError:
        raise InvalidInput(
            f"{NETWORK_CIDR} must be an IPv4 network without host bits, got {shown(cidr)}",
            hint=f"Write it as {DEFAULT_NETWORK}",
        ) from None


def _compare(prefix: str, network: IPv4Network) -> None:
    """Check that addresses of the network can begin with a prefix such as "192.168.100."."""
    if not prefix:
        return
    parts = prefix.removesuffix(".").split(".")
    try:
        named = IPv4Network((".".join([*parts, "0", "0", "0"][:4]), 8 * len(parts)))
    except ValueError:
        named = None
    if named is None or not prefix.endswith(".") or not named.overlaps(network):
        raise InvalidInput(
            f"{SUBNET_PREFIX} must be what addresses of {network} begin with, got {shown(prefix)}",
            hint=f"Leave it out: {NETWORK_CIDR} says it already",
        )
