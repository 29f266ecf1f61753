"""What a sandbox may reach, as its owner writes it: a word, or a list of names, networks and ports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network

from storage.shown import shown

from ..errors import InvalidInput
from .entries import network_entry, port_entry
from .names import pattern

MAX_ENTRIES = 256

_FORMS = 'none, internet, packages, learn, or an allow list such as "example.com, 198.51.100.0/24, 443/tcp"'


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


def _word_in_list(entry: str, field: str) -> InvalidInput:
    word = entry.lower()
    if word == Mode.ALLOW:
        return InvalidInput(f"{field} must name what to allow, got {shown(entry)}", hint=f"Give {_FORMS}.")
    return InvalidInput(
        f'{field} must have "{word}" alone, not in a list',
        hint="Give either the word or a list of names, networks and ports.",
    )
