"""The host's own IPv4 addresses, which no sandbox may reach."""

from __future__ import annotations

import array
import fcntl
import math
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address

import structlog

log = structlog.get_logger(__name__)

FRESH_S = 30.0

_SIOCGIFCONF = 0x8912
_IFREQ = 40
"""Bytes of struct ifreq where pointers have 64 bits: 16 of name, 4 of family and port, 4 of address, padding."""
_ADDRESS = slice(20, 24)


class OwnAddresses:
    """Reads the addresses, and remembers them for a while.

    Addresses that something in front of the host translates to it are not known here; an operator can tell them.

    Args:
        read: Reads them.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        read: Callable[[], tuple[IPv4Address, ...]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read or addresses
        self._clock = clock
        self._known: tuple[IPv4Address, ...] = ()
        self._until = -math.inf

    def __call__(self) -> tuple[IPv4Address, ...]:
        """Return them, as they were at most half a minute ago, or when they could be read for the last time.

        Raises:
            OSError: They could never be read. Nothing may be allowed then.
        """
        now = self._clock()
        if now >= self._until:
            try:
                self._known, self._until = self._read(), now + FRESH_S
            except OSError as error:
                if not self._known:
                    raise
                log.warning("own addresses not read", reason=str(error))
        return self._known


def addresses() -> tuple[IPv4Address, ...]:
    """Ask the kernel for the addresses of all interfaces.

    Source: netdevice(7), SIOCGIFCONF, which lists several addresses of one interface, too.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        room = 64
        while True:
            found = array.array("B", bytes(room * _IFREQ))
            request = struct.pack("iP", len(found), found.buffer_info()[0])
            length, _ = struct.unpack("iP", fcntl.ioctl(asked, _SIOCGIFCONF, request))
            if length < len(found):
                break
            room *= 2  # there may be more than fitted
    entries = (found[start : start + _IFREQ].tobytes() for start in range(0, length, _IFREQ))
    return tuple(sorted({IPv4Address(entry[_ADDRESS]) for entry in entries}))
