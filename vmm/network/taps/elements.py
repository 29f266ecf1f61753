"""A sandbox's fast path as elements of the sets of nftables."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, collapse_addresses

from .fast_path import FastPath

Element = tuple[str, str]
"""The name of a set, and what belongs into it."""


def elements(address: IPv4Address, fast: FastPath) -> frozenset[Element]:
    """Return what belongs into the sets for a sandbox of that address."""
    return frozenset(_elements(address, fast))


def _elements(address: IPv4Address, fast: FastPath) -> Iterator[Element]:
    if fast.internet:
        yield "internet", str(address)
    elif fast.networks:
        # The set takes no overlapping elements. Removing one takes the kernel milliseconds if there are thousands, so
        # the ports are in a set of their own instead of multiplying the networks.
        for network in collapse_addresses(fast.networks):
            yield "networks", f"{address} . {network}"
        for port in set(fast.ports):
            yield "ports", f"{address} . {port}"
        if not fast.ports:
            yield "portless", str(address)
