"""Entries of network lists that are no names: ports, addresses and networks; and what is mistaken for one."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network

from storage.shown import shown

from ..errors import InvalidInput

_PORT = re.compile(r"([0-9]{1,5})/tcp")
_NUMERIC = re.compile(r"[0-9]+(\.[0-9]+){3}(/[0-9.]*)?")


def port_entry(entry: str, *, field: str) -> int | None:
    """Read an entry such as "443/tcp"; None where the entry is of another kind."""
    lower = entry.lower()
    if lower.endswith("/udp") or lower == "udp":
        raise InvalidInput(
            f"{field} must name TCP ports only, got {shown(entry)}",
            hint="DNS is answered; with taps, a list without ports opens its networks to UDP, too.",
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
