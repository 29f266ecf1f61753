"""What a policy means on this host: which names are answered and which connections are made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from storage.shown import shown

from ..errors import InvalidInput
from .entries import network_entry
from .names import NamePatterns
from .policy import Mode, Policy

WEB_PORTS = frozenset({80, 443})
"""Where a connection under an allowed name must announce one. On others it may be of a protocol that has none."""

# Addresses that lead to the host, its neighbours or its cloud, by what a refusal calls them. The first match counts.
DENIED: tuple[tuple[str, IPv4Network], ...] = (
    ("unspecified address", IPv4Network("0.0.0.0/8")),
    ("loopback address", IPv4Network("127.0.0.0/8")),
    ("private address", IPv4Network("10.0.0.0/8")),
    ("private address", IPv4Network("172.16.0.0/12")),
    ("private address", IPv4Network("192.168.0.0/16")),
    ("shared address", IPv4Network("100.64.0.0/10")),
    ("link-local address", IPv4Network("169.254.0.0/16")),
    # Clouds offer credentials to their machines outside the link-local block as well.
    ("metadata address", IPv4Network("168.63.129.16/32")),
    ("metadata address", IPv4Network("192.0.0.0/24")),
    ("multicast address", IPv4Network("224.0.0.0/4")),
    ("broadcast address", IPv4Network("255.255.255.255/32")),
    ("reserved address", IPv4Network("240.0.0.0/4")),
)


def opened_networks(text: str, *, field: str) -> tuple[IPv4Network, ...]:
    """Read the networks that an operator opens, with commas between them.

    Raises:
        InvalidInput: One is no network, or reaches beyond the block that it is to open.
    """
    networks: list[IPv4Network] = []
    for entry in filter(None, map(str.strip, text.split(","))):
        network = network_entry(entry, field=field)
        if network is None:
            raise InvalidInput(f"{field} must be networks such as 10.1.0.0/16, got {shown(entry)}")
        # A single address may be one of the host's own, which can be any.
        if network.prefixlen < 32 and not any(network.subnet_of(block) for _, block in DENIED):
            raise InvalidInput(
                f"{field} must be networks within one private or otherwise denied block, got {shown(entry)}",
                hint="Public networks need not be opened; list each of the others by itself.",
            )
        networks.append(network)
    return tuple(networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """The operator's part, the same for every sandbox.

    Attributes:
        packages: Names, wildcards and addresses of the package registries.
        opened: Networks that are denied by default and that the operator opened. One that reaches beyond a denied
            block opens nothing of it: 0.0.0.0/0 does not open the loopback.
        own: The host's own addresses: denied unless `opened` has that very address.
    """

    packages: tuple[str, ...] = ()
    opened: tuple[IPv4Network, ...] = ()
    own: tuple[IPv4Address, ...] = ()


def denied_networks(host: HostRules) -> tuple[IPv4Network, ...]:
    """Return what no policy opens on this host: what leads inwards, and its own addresses, less what is opened."""
    denied = [block for _, block in DENIED] + [IPv4Network(address) for address in host.own]
    for opened in host.opened:
        denied = [part for block in denied for part in _without(block, opened)]
    return tuple(denied)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision.

    Attributes:
        allowed: Whether it may be.
        reason: Why not: 'policy "packages"', 'private address 10.0.0.1'.
        by_name: An allowed connection is so only for a name of its address: `Rules.announced` decides about the names
            that it announces, too.
    """

    allowed: bool
    reason: str = ""
    by_name: bool = False


ALLOWED = Verdict(allowed=True)


class Rules:
    """One sandbox's policy together with the host's rules."""

    def __init__(self, policy: Policy, host: HostRules) -> None:
        self.policy = policy
        self._opened = host.opened
        self._own = frozenset(host.own)
        listed = policy.mode is Mode.PACKAGES
        self._names = NamePatterns(host.packages if listed else policy.names)
        self._networks = tuple(_networks(host.packages)) if listed else policy.networks
        self._refused = Verdict(allowed=False, reason=f'policy "{policy.mode}"')

    @property
    def checks_names(self) -> bool:
        """Whether Host and SNI decide about connections, too."""
        return self.policy.mode in (Mode.ALLOW, Mode.PACKAGES)

    @property
    def networks(self) -> tuple[IPv4Network, ...]:
        """What a list or `packages` allows by its address, as far as it is not denied."""
        return self._networks

    def name(self, name: str) -> Verdict:
        """Decide whether the resolver may answer a name."""
        if self.policy.mode in (Mode.INTERNET, Mode.LEARN):
            return ALLOWED
        if self.policy.mode is Mode.NONE or not self._names.cover(name):
            return self._refused
        return ALLOWED

    def answer(self, address: IPv4Address) -> Verdict:
        """Decide whether an answer may have this address, which a name of the guest's choice can point to.

        A refusal does not tell the address: names are resolved as the host sees them, inside its network, too.
        """
        if self.policy.mode is Mode.NONE:
            return self._refused
        denied = self._denied(address)
        return Verdict(allowed=False, reason=denied.replace(" {}", "")) if denied else ALLOWED

    def connection(self, address: IPv4Address, port: int, names: Collection[str]) -> Verdict:
        """Decide about a connection.

        Args:
            address: Its original destination.
            port: The TCP port there.
            names: The names for which the resolver gave this sandbox the address.
        """
        if self.policy.mode is Mode.NONE:
            return self._refused
        reachable = self._reachable(address)
        return self._listed(address, port, names) if reachable.allowed and self.checks_names else reachable

    def packet(self, address: IPv4Address, names: Collection[str]) -> Verdict:
        """Decide about what is not TCP: by its address alone, because nothing in it announces a name.

        Args:
            address: Its destination.
            names: The names for which the resolver gave this sandbox the address.
        """
        if self.policy.mode is Mode.NONE:
            return self._refused
        reachable = self._reachable(address)
        if not reachable.allowed or self.policy.mode is Mode.INTERNET:
            return reachable
        more = ""
        if self.policy.mode is Mode.LEARN:
            more = ", which opens TCP only"
        elif any(address in network for network in self._networks):
            if not self.policy.ports:
                return ALLOWED
            more = ", whose ports are those of TCP"
        elif any(self._names.cover(name) for name in names):
            more = ", whose names open TCP only"
        return Verdict(allowed=False, reason=f"{self._refused.reason}{more}")

    def announced(self, name: str | None, port: int) -> Verdict:
        """Decide about the name that a connection announces in Host or SNI; None: it announces none, or hides it."""
        if not self.checks_names:
            return self._refused if self.policy.mode is Mode.NONE else ALLOWED
        if name is None or not name:
            return Verdict(allowed=False, reason=f"{self._refused.reason}, which needs a name in Host or SNI")
        if not self._port(port) or not self._names.cover(name):
            return self._refused
        return ALLOWED

    def closed(self) -> tuple[IPv4Network, ...]:
        """Return the networks of the allow list that stay denied as a whole, which the owner should be told."""
        return tuple(
            network
            for network in self.policy.networks
            if any(network.subnet_of(block) for _, block in DENIED) or network.network_address in self._own
            if not any(network.overlaps(opened) for opened in self._opened)
        )

    def _listed(self, address: IPv4Address, port: int, names: Collection[str]) -> Verdict:
        if not self._port(port):
            return self._refused
        if any(address in network for network in self._networks):
            return ALLOWED
        if any(self._names.cover(name) for name in names):
            return Verdict(allowed=True, by_name=True)
        return self._refused

    def _port(self, port: int) -> bool:
        return not self.policy.ports or port in self.policy.ports

    def _reachable(self, address: IPv4Address) -> Verdict:
        denied = self._denied(address)
        return Verdict(allowed=False, reason=denied.format(address)) if denied else ALLOWED

    def _denied(self, address: IPv4Address) -> str:
        """Tell how an address leads to the host, its neighbours or its cloud, with a place for it; empty if not."""
        if address in self._own and IPv4Network(address) not in self._opened:
            return "address {} of the host"
        for kind, block in DENIED:
            if address in block:
                opened = any(address in network and network.subnet_of(block) for network in self._opened)
                return "" if opened else f"{kind} {{}}"
        return ""


def _without(block: IPv4Network, opened: IPv4Network) -> Iterable[IPv4Network]:
    # One that reaches beyond the block opens nothing of it.
    return block.address_exclude(opened) if opened.subnet_of(block) else (block,)


def _networks(entries: Iterable[str]) -> Iterator[IPv4Network]:
    for entry in entries:
        with suppress(ValueError):  # it is a name
            yield IPv4Network(entry)
