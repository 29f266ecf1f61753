"""What a sandbox may reach, as its owner writes it: a word, or a list of names, networks and ports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from storage.shown import shown

from ..errors import InvalidInput
from .names import pattern

MAX_ENTRIES = 256

_FORMS = 'none, internet, packages, learn, or an allow list such as "example.com, 198.51.100.0/24, 443/tcp"'
_PORT = re.compile(r"([0-9]{1,5})/tcp")
_NUMERIC = re.compile(r"[0-9]+(\.[0-9]+){3}(/[0-9.]*)?")


class Mode(StrEnum):
    """The kinds of policies."""

    NONE = "none"
    INTERNET = "internet"
    PACKAGES = "packages"
    ALLOW = "allow"
    LEARN = "learn"


_WORDS = frozenset(Mode) - {Mode.ALLOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a sandbox may reach; equal if it allows the same, in whatever order it was written.

    Attributes:
        mode: Its kind.
        names: Of an allow list: "example.com", "*.example.com"; lower case, ASCII.
        networks: Of an allow list; an address is a network of one.
        ports: TCP ports that limit the whole allow list; none: every port.
    """

    mode: Mode
    names: tuple[str, ...] = ()
    networks: tuple[IPv4Network, ...] = ()
    ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(sorted(set(self.names))))
        object.__setattr__(self, "networks", tuple(sorted(set(self.networks))))
        object.__setattr__(self, "ports", tuple(sorted(set(self.ports))))

    @classmethod
    def parse(cls, value: str | Sequence[str], *, field: str = "network") -> Policy:
        """Read a policy as it comes from a caller, a setting or a record.

        Args:
            value: One word, or the entries of an allow list, as a list or with commas between them.
            field: What errors call it.

        Raises:
            InvalidInput: It is no policy; the message says which entry, the hint how to write it.
        """
        entries = _entries(value, field)
        if len(entries) == 1 and entries[0].lower() in _WORDS:
            return cls(mode=Mode(entries[0].lower()))
        names: list[str] = []
        networks: list[IPv4Network] = []
        ports: list[int] = []
        for entry in entries:
            if entry.lower() in set(Mode):
                raise _word_in_list(entry, field)
            if (port := port_entry(entry, field=field)) is not None:
                ports.append(port)
            elif (network := network_entry(entry, field=field)) is not None:
                networks.append(network)
            else:
                names.append(pattern(entry, field=field))
        if not names and not networks:
            raise InvalidInput(
                f"{field} must have a name or a network beside its ports, got {shown(', '.join(entries))}",
                hint='Ports limit the other entries: "example.com, 443/tcp".',
            )
        return cls(mode=Mode.ALLOW, names=tuple(names), networks=tuple(networks), ports=tuple(ports))

    def text(self) -> str:
        """Return the policy as `parse` reads it: always the same text for the same policy."""
        if self.mode is not Mode.ALLOW:
            return self.mode.value
        networks = (str(n.network_address) if n.prefixlen == 32 else str(n) for n in self.networks)
        return ",".join((*self.names, *networks, *(f"{port}/tcp" for port in self.ports)))


def port_entry(entry: str, *, field: str) -> int | None:
    """Read an entry such as "443/tcp"; None where the entry is of another kind."""
    lower = entry.lower()
    if lower.endswith("/udp") or lower == "udp":
        raise InvalidInput(
            f"{field} must name TCP ports only, got {shown(entry)}",
            hint="A sandbox reaches the network by TCP; DNS is answered for it.",
        )
    if lower.isdecimal():
        raise InvalidInput(
            f"{field} must name ports with their protocol, got {shown(entry)}", hint=f"Write {lower}/tcp."
        )
    if not lower.endswith("/tcp"):
        return None
    match = _PORT.fullmatch(lower)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise InvalidInput(f"{field} must have ports from 1 to 65535 such as 443/tcp, got {shown(entry)}")
    return int(match[1])


def network_entry(entry: str, *, field: str) -> IPv4Network | None:
    """Read an address or a CIDR block; None where the entry is of another kind."""
    if _is_ipv6(entry):
        raise InvalidInput(f"{field} must have IPv4 addresses only, got {shown(entry)}", hint="Sandboxes have no IPv6.")
    if _NUMERIC.fullmatch(entry) is None:
        _refuse_url(entry, field)
        return None
    try:
        network = _ipv4(entry)
    except ValueError as error:
        raise InvalidInput(
            f"{field} must have addresses such as 198.51.100.7 or 198.51.100.0/24, got {shown(entry)}"
        ) from error
    if network.prefixlen == 0:
        raise InvalidInput(f"{field} must not list every address, got {shown(entry)}", hint='Use "internet" for that.')
    if str(network) not in (entry, f"{entry}/32"):
        raise InvalidInput(
            f"{field} must have networks by their first address, got {shown(entry)}",
            hint=f"The network is {network}; one address of it is {entry.partition('/')[0]}.",
        )
    return network


def _entries(value: str | Iterable[str], field: str) -> list[str]:
    written = value.split(",", MAX_ENTRIES + 1) if isinstance(value, str) else list(value)
    for entry in written:
        if not isinstance(entry, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- JSON from callers
            raise InvalidInput(f"{field} must be a list of texts, got {shown(entry)} in it")
    entries = [entry.strip() for entry in written if entry.strip()]
    if not entries:
        raise InvalidInput(f"{field} must be {_FORMS}, got {shown(value)}", hint='To allow nothing, use "none".')
    if len(entries) > MAX_ENTRIES:
        raise InvalidInput(
            f"{field} must have at most {MAX_ENTRIES} entries, got more",
            hint='Use wildcards ("*.example.com") and wider networks.',
        )
    return entries


def _ipv4(entry: str) -> IPv4Network:
    if entry.partition("/")[2].count("."):
        raise ValueError("a mask, where the policy's text has a length")
    return IPv4Network(entry, strict=False)


def _is_ipv6(entry: str) -> bool:
    if entry.count(":") < 2:
        return False
    try:
        IPv6Network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    return True


def _refuse_url(entry: str, field: str) -> None:
    """Refuse what is written around a host elsewhere: a scheme, a path, a port."""
    if "://" in entry or "@" in entry:
        host = re.split(r"[/:?#]", entry.rpartition("://")[2].rpartition("@")[2], maxsplit=1)[0]
        raise InvalidInput(
            f"{field} must have names, not URLs, got {shown(_without_user(entry))}", hint=f"Write {host}."
        )
    host, colon, port = entry.partition(":")
    if colon:
        raise InvalidInput(
            f"{field} must have ports as entries of their own, got {shown(entry)}",
            hint=f'Write "{host}, {port}/tcp"; ports limit all entries of the list.',
        )
    if "/" in entry:
        raise InvalidInput(
            f"{field} must have names without paths, got {shown(entry)}", hint=f"Write {entry.partition('/')[0]}."
        )


def _without_user(entry: str) -> str:
    """Leave out the user and password of a URL, which error texts must not repeat."""
    scheme, separator, rest = entry.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _word_in_list(entry: str, field: str) -> InvalidInput:
    word = entry.lower()
    if word == Mode.ALLOW:
        return InvalidInput(f"{field} must name what to allow, got {shown(entry)}", hint=f"Give {_FORMS}.")
    return InvalidInput(
        f'{field} must have "{word}" alone, not in a list',
        hint="Give either the word or a list of names, networks and ports.",
    )
