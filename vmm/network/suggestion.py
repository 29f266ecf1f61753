"""The smallest allow list that covers what a sandbox reached."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import NamedTuple

from .names import is_pattern, plain
from .policy import MAX_ENTRIES, Mode, Policy

EVERY = 0
"""Stands for every port and protocol of an address, as lists can open only them together."""

_MOST_PORTS = 32


def smallest(destinations: Collection[tuple[str, int | None]]) -> Policy:
    """Make the narrowest policy that allows all destinations and that `Policy.parse` accepts.

    Args:
        destinations: Names or addresses, each with the TCP port; `EVERY` for an address that was reached by another
            protocol, for which the list then has no ports; or None where the name was only looked up.
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
    if len(ports) > _MOST_PORTS or EVERY in ports:
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
    """Put names of one domain under a wildcard, beginning with the domains that have the most of them.

    Each pass puts as many domains as needed under wildcards, so there are no more passes than a name has labels: a
    guest chooses the names, and thousands of deep ones must not take minutes.
    """
    entries = {_Entry.of(name) for name in names}
    while len(entries) > most:
        below: dict[str, list[_Entry]] = {}
        for entry in entries:
            if parent := entry.parent():
                below.setdefault(parent, []).append(entry)
        if not below:
            return set(sorted(entry.name() for entry in entries)[:most])  # nothing is left to join: the list is cut
        count = len(entries)
        for parent, members in sorted(below.items(), key=lambda item: (-len(item[1]), item[0])):
            if count <= most:
                break
            wildcard = _Entry(parent, wide=True)
            count -= len(members) - (wildcard not in entries)
            entries.difference_update(members)
            entries.add(wildcard)
        entries = set(_uncovered(entries))
    return {entry.name() for entry in entries}


class _Entry(NamedTuple):
    """A name or wildcard, with its labels from the top down: below "com.example." is all that begins with it."""

    path: str
    wide: bool

    @classmethod
    def of(cls, name: str) -> _Entry:
        below = name.removeprefix("*.")
        return cls(".".join(reversed(below.split("."))) + ".", wide=below != name)

    def name(self) -> str:
        below = ".".join(reversed(self.path[:-1].split(".")))
        return f"*.{below}" if self.wide else below

    def parent(self) -> str:
        """Return the path of the domain above; empty if no wildcard can stand for that."""
        above = self.path[: self.path.rfind(".", 0, -1) + 1]
        return above if above.count(".") > 1 else ""


def _uncovered(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Leave out what a wildcard of the others stands for; what is below it follows it in their order."""
    above = ""
    for entry in sorted(entries):
        if above and entry.path.startswith(above):
            continue
        if entry.wide:
            above = entry.path
        yield entry
