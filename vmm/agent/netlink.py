"""The kernel's network devices, addresses and routes, of the network namespace that a `Netlink` was made in.

The agent talks to the kernel itself, since programs for it are out of reach once the root has changed. Devices are
named by their index, since root in the sandbox may give them other names. Source: rtnetlink(7).
"""

from __future__ import annotations

import _thread
import os
import socket
import struct
from dataclasses import dataclass

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_NEW_LINK, _GET_LINK, _SET_LINK = 16, 18, 19
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _GET_ROUTE = 24, 26
_REQUEST, _ACKNOWLEDGE, _DUMP, _REPLACE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x400
_LINK_ADDRESS, _LINK_NAME, _LINK_NAMESPACE, _LINK_PERMANENT_ADDRESS = 1, 3, 28, 54
_ADDRESS_PEER, _ADDRESS_LOCAL, _ADDRESS_BROADCAST = 1, 2, 4
_ROUTE_DEVICE, _ROUTE_GATEWAY = 4, 5
_MAIN_TABLE, _BOOT, _UNICAST = 254, 3, 1
_ON_LINK = 4  # RTNH_F_ONLINK: there need be no route to the gateway
_UP = 0x1
_MOST = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device.

    Attributes:
        index: Its number, which stays if it is renamed.
        name: Its name.
        mac: Its hardware address.
        made_with: The hardware address that it was made with; empty if the kernel does not know it.
        up: Whether it is up.
    """

    index: int
    name: str
    mac: bytes
    made_with: bytes
    up: bool


class Netlink:
    """A socket to the kernel, which stays in the namespace of its maker."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._lock = _thread.allocate_lock()
        self._number = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def links(self) -> list[Link]:
        """List the devices."""
        found: list[Link] = []
        for body in self._asked(_GET_LINK, _DUMP, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, _, index, flags, _ = _LINK.unpack_from(body)
            values = _attributes(body[_LINK.size :])
            found.append(
                Link(
                    index=index,
                    name=values.get(_LINK_NAME, b"").rstrip(b"\0").decode(errors="replace"),
                    mac=values.get(_LINK_ADDRESS, b""),
                    made_with=values.get(_LINK_PERMANENT_ADDRESS, b""),
                    up=bool(flags & _UP),
                )
            )
        return found

    def set_up(self, index: int, *, up: bool) -> None:
        """Set a device up or down; down, it loses its routes and neighbours."""
        self._asked(_SET_LINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, _UP if up else 0, _UP))

    def set_mac(self, index: int, mac: bytes) -> None:
        """Give a device a hardware address."""
        self._set_link(index, _LINK_ADDRESS, mac)

    def rename(self, index: int, name: str) -> None:
        """Rename a device that is down."""
        self._set_link(index, _LINK_NAME, name.encode() + b"\0")

    def move(self, index: int, namespace: int) -> None:
        """Move a device into the network namespace of a descriptor."""
        self._set_link(index, _LINK_NAMESPACE, struct.pack("=I", namespace))

    def addresses(self, index: int) -> list[tuple[bytes, int]]:
        """List a device's IPv4 addresses, each with the length of its network's prefix."""
        found: list[tuple[bytes, int]] = []
        for body in self._asked(_GET_ADDRESS, _DUMP, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, device = _ADDRESS.unpack_from(body)
            if device == index:
                found.append((_attributes(body[_ADDRESS.size :]).get(_ADDRESS_LOCAL, b""), prefix))
        return found

    def add_address(self, index: int, address: bytes, prefix: int) -> None:
        """Give a device an IPv4 address, with the broadcast address of its network."""
        hosts = (1 << 32 - prefix) - 1
        broadcast = (int.from_bytes(address, "big") | hosts).to_bytes(4, "big")
        fields = ((_ADDRESS_LOCAL, address), (_ADDRESS_PEER, address), (_ADDRESS_BROADCAST, broadcast))
        self._asked(_NEW_ADDRESS, _CREATE | _REPLACE, _ADDRESS.pack(socket.AF_INET, prefix, 0, 0, index), *fields)

    def remove_address(self, index: int, address: bytes, prefix: int) -> None:
        """Take an IPv4 address from a device."""
        self._asked(_DELETE_ADDRESS, 0, _ADDRESS.pack(socket.AF_INET, prefix, 0, 0, index), (_ADDRESS_LOCAL, address))

    def gateway(self, index: int) -> bytes:
        """Return the gateway of the default route through a device; empty if it has none."""
        for body in self._asked(_GET_ROUTE, _DUMP, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
            values = _attributes(body[_ROUTE.size :])
            through = values.get(_ROUTE_DEVICE) == struct.pack("=I", index)
            if through and (length, table) == (0, _MAIN_TABLE) and _ROUTE_GATEWAY in values:
                return values[_ROUTE_GATEWAY]
        return b""

    def set_gateway(self, index: int, gateway: bytes) -> None:
        """Make a gateway behind a device the next hop of the default route, in place of another one."""
        body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _MAIN_TABLE, _BOOT, 0, _UNICAST, _ON_LINK)
        fields = ((_ROUTE_DEVICE, struct.pack("=I", index)), (_ROUTE_GATEWAY, gateway))
        self._asked(_NEW_ROUTE, _CREATE | _REPLACE, body, *fields)

    def _set_link(self, index: int, kind: int, value: bytes) -> None:
        self._asked(_SET_LINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0), (kind, value))

    def _asked(self, kind: int, flags: int, body: bytes, *fields: tuple[int, bytes]) -> list[bytes]:
        """Send a request, and return what the kernel answers.

        Raises:
            OSError: It refuses.
        """
        for field, value in fields:
            body += _padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), field) + value)
        with self._lock:
            self._number += 1
            flags |= _REQUEST if flags == _DUMP else _REQUEST | _ACKNOWLEDGE
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._number, 0) + body)
            found: list[bytes] = []
            while not self._received(found):
                pass
            return found

    def _received(self, found: list[bytes]) -> bool:
        """Receive a part of an answer; whether it is the last one."""
        data = self._socket.recv(_MOST)
        while len(data) >= _HEADER.size:
            length, kind, _, number, _ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[length + -length % 4 :]
            if number != self._number:
                continue  # of a request that was given up
            if kind in {_ERROR, _DONE}:
                (error,) = struct.unpack_from("=i", body)
                if error < 0:
                    raise OSError(-error, os.strerror(-error))
                return True
            found.append(body)
        return False


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]
    return found
