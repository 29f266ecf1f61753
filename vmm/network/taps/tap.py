"""A tap: the network device of one machine, which lasts as long as somebody holds its descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from ipaddress import IPv4Address
from typing import Any

from ...errors import Conflict, Unavailable
from .links import configure, find, netlink
from .settings import TapSettings, mac

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
PERMANENT, _STATIC = 0x80, 0x40
"""Of neighbours (NUD_PERMANENT) and of a bridge's hardware addresses (NUD_NOARP; what is permanent is the host's)."""
# A frame leaves by this port only if it is for this guest: nothing is flooded, and nothing learnt.
_ALONE = {"isolated": 1, "learning": 0, "unicast_flood": 0, "mcast_flood": 0, "bcast_flood": 0}


class Taken(Exception):
    """Another program holds a device of that name."""


class Tap:
    """The tap of one address; its methods block.

    Args:
        settings: The bridge.
        address: The guest's.
    """

    def __init__(self, settings: TapSettings, address: IPv4Address) -> None:
        self.name = settings.tap(address)
        self._settings = settings
        self._address = address
        self._descriptor = -1

    def fileno(self) -> int:
        """Return the descriptor; -1 if it is closed."""
        return self._descriptor

    def open(self) -> None:
        """Make the device; it can do nothing yet.

        Raises:
            Taken: Another program holds one of that name.
            Unavailable: The kernel has no taps, or refuses.
        """
        try:
            self._descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(self._descriptor, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), flags))
        except OSError as error:
            self.close()
            if error.errno in {errno.EBUSY, errno.EINVAL}:
                raise Taken(self.name) from error
            raise Unavailable(
                f"No tap can be made: {error.strerror}", hint=f"Look whether {_DEVICE} exists; or run: modprobe tun"
            ) from error

    def close(self) -> None:
        """Close the descriptor; with the last one, the device vanishes."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:
            os.close(descriptor)

    def connect(self) -> None:
        """Make it a port of the bridge and switch it on; may be repeated.

        Raises:
            Conflict: There is no such device, or no bridge.
            OSError: The kernel refuses.
        """
        with netlink() as kernel:
            tap, bridge = find(kernel, self.name), find(kernel, self._settings.bridge)
            if tap is None or bridge is None:
                raise Conflict(f"There is no {self.name if tap is None else self._settings.bridge}")
            configure("ipv6", self.name, "disable_ipv6", 1)
            if tap.master != bridge.index:
                kernel.link("set", index=tap.index, master=bridge.index)
            kernel.brport("set", index=tap.index, **_ALONE)
            kernel.fdb("replace", ifindex=tap.index, lladdr=mac(self._address), state=_STATIC)
            # The host need not ask who has the address, and nobody else can answer.
            self._neighbour(kernel, "replace", bridge.index, lladdr=mac(self._address), state=PERMANENT)
            if not tap.up:
                kernel.link("set", index=tap.index, state="up")

    def forget(self) -> None:
        """Remove what is left of it at the bridge once the device has gone; may be repeated.

        Raises:
            OSError: The kernel refuses.
        """
        try:
            with netlink() as kernel:
                bridge = find(kernel, self._settings.bridge)
                if bridge is not None:
                    self._neighbour(kernel, "del", bridge.index)
        except FileNotFoundError:
            return

    def _neighbour(self, kernel: Any, command: str, bridge: int, **more: object) -> None:
        kernel.neigh(command, dst=str(self._address), ifindex=bridge, **more)
