"""What is left at the bridge of machines that ended while no server was there to take it back."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address
from socket import AF_INET
from typing import Any

import structlog

from . import conntrack
from .links import Link, links
from .settings import TapSettings
from .tap import PERMANENT

log = structlog.get_logger(__name__)


def forget(kernel: Any, settings: TapSettings, bridge: Link) -> None:
    """Remove the neighbours and tracked connections of all addresses that have no tap. Blocks.

    Args:
        kernel: Netlink.
        settings: The bridge.
        bridge: Its device.

    Raises:
        OSError: The kernel refuses to tell its neighbours or to forget one.
    """
    taps = {link.name for link in links(kernel)}

    def left(address: IPv4Address) -> bool:
        network, own = settings.gateway.network, settings.gateway.ip
        return address in network and address != own and settings.tap(address) not in taps

    for neighbour in tuple(kernel.get_neighbours(family=AF_INET, ifindex=bridge.index)):
        address = neighbour.get_attr("NDA_DST")
        if neighbour["state"] & PERMANENT and left(IPv4Address(address)):
            with suppress(FileNotFoundError):  # another server did it meanwhile
                kernel.neigh("del", dst=address, ifindex=bridge.index)
    try:
        conntrack.forget_all(left)
    except OSError as error:
        log.warning("connections of machines that have ended stay in the kernel's table", reason=str(error))
