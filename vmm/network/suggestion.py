"""The smallest allow list that covers what a sandbox reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from .names import is_pattern, plain
from .policy import MAX_ENTRIES, Mode, Policy

_MOST_PORTS = 32


def smallest(destinations: Collection[tuple[str, int | None]]) -> Policy:
    """Make the narrowest policy that allows all destinations and that `Policy.parse` accepts.

    Args:
        destinations: Names or addresses, each with the port, or None where the name was only looked up.
    """
    names: set[str] = set()
    networks: set[IPv4Network] = set()
    for host, _ in destinations:
        try:
            networks.add(IPv4Network(IPv4Address(host)))
        except AddressValueError:
            if is_pattern(plain(host)):
                names.add(plain(host))
    if not names and not networks:
        return Policy(mode=Mode.NONE)
    ports = {port for _, port in destinations if port is not None}
    if len(ports) > _MOST_PORTS:
        ports.clear()
    room = MAX_ENTRIES - len(ports)
    networks = _fewer_networks(networks, max(room // 2, room - len(names)))
    names = _fewer_names(names, room - len(networks))
    return Policy(mode=Mode.ALLOW, names=tuple(names), networks=tuple(networks), ports=tuple(ports))


def _fewer_networks(networks: set[IPv4Network], most: int) -> set[IPv4Network]:
    prefix = 32
    while len(networks) > most:
        prefix -= 8 if prefix > 8 else 1
        networks = {network.supernet(new_prefix=prefix) for network in networks}
    return networks


def _fewer_names(names: set[str], most: int) -> set[str]:
    """Put names of one domain under a wildcard, beginning with the domain that has the most of them."""
    names = set(names)
    while len(names) > most:
        above = Counter(parent for name in names if "." in (parent := name.removeprefix("*.").partition(".")[2]))
        if not above:
            return set(sorted(names)[:most])  # nothing is left to join: the list is cut
        parent = above.most_common(1)[0][0]
        names = {name for name in names if not name.endswith(f".{parent}")} | {f"*.{parent}"}
    return names
