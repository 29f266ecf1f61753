"""The bridge that sandboxes are on, and what of the host stands in its way."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from socket import AF_INET
from typing import Any

from ...errors import CasemateError, Conflict
from .links import Link, addresses, configure, find, links
from .settings import BRIDGE_NAME, NETWORK_CIDR, TAP_PREFIX, TapSettings

MAC = "02:ca:5e:00:00:00"
"""The same on all hosts and at all times: a sandbox that slept elsewhere still knows it."""

_OURS = "Casemate: sandboxes"
_SWITCHED = f"{_OURS}; ip_forward was off before"
_UNICAST = 1
"""Of routes: RTN_UNICAST. The others lead nowhere, or are about an address of the host."""


def ours(link: Link) -> bool:
    """Tell whether we made a bridge."""
    return link.kind == "bridge" and link.alias in {_OURS, _SWITCHED}


def switched(link: Link) -> bool:
    """Tell whether ip_forward was off before."""
    return link.alias == _SWITCHED


def remember_switched(kernel: Any, link: Link) -> None:
    """Note that ip_forward was off before."""
    kernel.link("set", index=link.index, ifalias=_SWITCHED)


def obstacles(kernel: Any, settings: TapSettings) -> Iterator[CasemateError]:
    """Look for what the bridge would disturb, or would be disturbed by."""
    bridge = find(kernel, settings.bridge)
    if bridge and not ours(bridge):
        yield Conflict(
            f"{settings.bridge} exists, and is not Casemate's",
            hint=f"Set {BRIDGE_NAME} to another name; if nothing needs it, run: ip link delete {settings.bridge}",
        )
    index = bridge.index if bridge else 0
    for link in links(kernel):
        if link.name.startswith(settings.prefix) and link.kind != "tun":
            yield Conflict(
                f"{TAP_PREFIX} must be unlike the names of other devices, {settings.prefix} is how {link.name} begins",
                hint=f"Set {TAP_PREFIX} to something of its own",
            )
    for network, device in _routes(kernel, without=index):
        if network.overlaps(settings.gateway.network):
            yield Conflict(
                f"{NETWORK_CIDR} {settings.gateway.network} overlaps the host's route to {network} by {device}",
                hint=f"Set {NETWORK_CIDR} and GATEWAY_IP to a private network that the host does not use",
            )


def make(kernel: Any, settings: TapSettings) -> Link:
    """Make the bridge as it is to be; a new one is not switched on yet.

    Raises:
        OSError: The kernel refuses.
    """
    found = find(kernel, settings.bridge)
    if found is None:
        kernel.link("add", ifname=settings.bridge, kind="bridge", address=MAC)
    link = found or find(kernel, settings.bridge)
    assert link is not None
    if found is None:
        kernel.link("set", index=link.index, ifalias=_OURS)
    configure("ipv6", settings.bridge, "disable_ipv6", 1)
    configure("ipv4", settings.bridge, "send_redirects", 0)
    held = addresses(kernel, link)
    for address in held - {settings.gateway}:
        kernel.addr("del", index=link.index, address=str(address.ip), prefixlen=address.network.prefixlen)
    if settings.gateway not in held:
        ip, network = settings.gateway.ip, settings.gateway.network
        broadcast = str(network.broadcast_address)
        kernel.addr("add", index=link.index, address=str(ip), prefixlen=network.prefixlen, broadcast=broadcast)
    return link


def switch_on(kernel: Any, link: Link) -> None:
    """Switch the bridge on."""
    if not link.up:
        kernel.link("set", index=link.index, state="up")


def remove(kernel: Any, link: Link) -> None:
    """Remove the bridge; its ports stay, and are ports of nothing."""
    kernel.link("del", index=link.index)


def _routes(kernel: Any, *, without: int) -> Iterator[tuple[IPv4Network, str]]:
    """Yield where the host's routes lead, except everywhere, and by which device."""
    names = {link.index: link.name for link in links(kernel)}
    for route in kernel.get_routes(family=AF_INET):
        device = route.get_attr("RTA_OIF") or 0
        if route["type"] == _UNICAST and route["dst_len"] and device != without:
            network = IPv4Network((route.get_attr("RTA_DST"), route["dst_len"]))
            yield network, names.get(device, "several devices")
