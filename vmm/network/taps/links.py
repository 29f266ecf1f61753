"""The kernel's network devices, over netlink."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from socket import AF_INET
from typing import Any, cast

_CONF = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device.

    Attributes:
        index: Its number.
        kind: "bridge", "tun", "veth"; empty for hardware.
        alias: The text that whoever made it left on it.
        up: Whether it was switched on.
        master: The number of the bridge that it is a port of; 0: of none.
    """

    index: int
    name: str
    kind: str
    alias: str
    up: bool
    master: int


@contextmanager
def netlink() -> Generator[Any]:
    """Talk to the kernel for the length of a block. Blocks.

    Raises:
        OSError: It refuses something.
    """
    # Takes 100 ms to import, which a server without taps need not spend.
    from pyroute2 import IPRoute  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]
    from pyroute2.netlink.exceptions import (  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]
        NetlinkError,
    )

    try:
        with IPRoute() as opened:
            yield opened
    except NetlinkError as error:
        code: int = cast("Any", error).code
        raise OSError(code, os.strerror(code)) from error


def links(kernel: Any) -> list[Link]:
    """List all devices."""
    return [_link(message) for message in kernel.get_links()]


def find(kernel: Any, name: str) -> Link | None:
    """Find a device by its name."""
    index = kernel.link_lookup(ifname=name)
    return _link(kernel.get_links(index[0])[0]) if index else None


def addresses(kernel: Any, link: Link) -> set[IPv4Interface]:
    """List the IPv4 addresses of a device."""
    found = kernel.get_addr(family=AF_INET, index=link.index)
    return {IPv4Interface((message.get_attr("IFA_LOCAL"), message["prefixlen"])) for message in found}


def configure(family: str, link: str, name: str, value: int) -> None:
    """Set a parameter of a device; one that the kernel does not have, because it has no IPv6, needs no setting."""
    place = _CONF / family / "conf" / link / name
    if place.exists() and place.read_text().strip() != str(value):
        place.write_text(str(value))


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info and info.get_attr("IFLA_INFO_KIND")) or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        up=bool(message["flags"] & 1),
        master=message.get_attr("IFLA_MASTER") or 0,
    )
