"""What is left at the bridge of machines that ended without a server that took it back."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address
from socket import AF_INET

from . import conntrack
from .links import find, links, netlink
from .settings import TapSettings
from .tap import PERMANENT


def forget(settings: TapSettings) -> None:
    """Remove the neighbours and tracked connections of all addresses that have no tap. Blocks.

    Raises:
        OSError: The kernel refuses.
    """
    with netlink() as kernel:
        bridge = find(kernel, settings.bridge)
        neighbours = tuple(kernel.get_neighbours(family=AF_INET, ifindex=bridge.index)) if bridge else ()
        taps = {link.name for link in links(kernel)}  # read after those: what is made meanwhile is not forgotten
        for neighbour in neighbours:
            address = neighbour.get_attr("NDA_DST")
            if neighbour["state"] & PERMANENT and settings.tap(IPv4Address(address)) not in taps:
                with suppress(FileNotFoundError):
                    kernel.neigh("del", dst=address, ifindex=neighbour["ifindex"])
    network, own = settings.gateway.network, settings.gateway.ip
    conntrack.forget_all(lambda found: found in network and found != own and settings.tap(found) not in taps)
