"""The host's own IPv4 addresses, which sandboxes must never reach through the server.

Source: the kernel's routing table in /proc/net/fib_trie (net/ipv4/fib_trie.c of Linux 6.1), where each address of an
interface is a leaf with a route of 32 bits and the type LOCAL.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

_TABLE = Path("/proc/net/fib_trie")
_LEAF = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n(?:\s+/\d+ .*\n)*?\s+/32 host LOCAL")


def host_addresses(table: Path = _TABLE) -> tuple[IPv4Address, ...]:
    """Read the addresses as they are now, without loopback ones; none where the kernel does not tell."""
    try:
        text = table.read_text()
    except OSError:
        return ()
    found = {IPv4Address(address) for address in _LEAF.findall(text)}
    return tuple(sorted(address for address in found if not address.is_loopback))
