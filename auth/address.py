"""The client address of a request, as the rate limits count it."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


def address_of(scope: Scope) -> str:
    """Return the client's IPv4 address, or the /64 network of its IPv6 address.

    Whoever has one address of a /64 usually has all of them.
    """
    client = scope.get("client")
    return _counted(str(client[0]) if client else "")


@lru_cache(maxsize=4096)
def _counted(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return "unknown"  # a unix socket
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address), 64), strict=False))
    return str(address)
