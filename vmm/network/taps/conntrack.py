"""The kernel's table of connections, from which those of an address that is lent anew must vanish.

Source: linux/netfilter/nfnetlink_conntrack.h. A part of a tuple selects the entries to remove since Linux 6.8; older
kernels list all entries, of which each is removed by itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
"""IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK."""
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_IP, _IP_V4_SRC = 1, 1, 1
_IP_V4_SIZE = 4
_FILTER, _FILTER_ORIG_FLAGS, _BY_SOURCE = 25, 1, 1
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.pack("!BBH", socket.AF_INET, 0, 0)
_TYPE = 0x3FFF
"""Of an attribute, without its flags."""
_PATIENCE_S = 10.0
_MOST = 64 * 1024


def forget(address: IPv4Address) -> None:
    """Remove the entries of all connections that come from an address. Blocks.

    Raises:
        OSError: The kernel cannot, or does not answer.
    """
    source = _attribute(_TUPLE_IP | _NESTED, _attribute(_IP_V4_SRC, address.packed))
    chosen = _attribute(_TUPLE_ORIG | _NESTED, source)
    chosen += _attribute(_FILTER | _NESTED, _attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_SOURCE)))
    with _connection() as kernel:
        try:
            _asked(kernel, _DELETE, _ACK, chosen)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _forget_all(kernel, lambda found: found == address)


def forget_each(address: IPv4Address) -> None:
    """Do the same by looking at every entry, as kernels before 6.8 need it. Blocks.

    Raises:
        OSError: As of `forget`.
    """
    forget_all(lambda found: found == address)


def forget_all(chosen: Callable[[IPv4Address], bool]) -> None:
    """Remove the entries of all connections that come from chosen addresses. Blocks.

    Raises:
        OSError: As of `forget`.
    """
    with _connection() as kernel:
        _forget_all(kernel, chosen)


def _connection() -> socket.socket:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    kernel.settimeout(_PATIENCE_S)
    return kernel


def _forget_all(kernel: socket.socket, chosen: Callable[[IPv4Address], bool]) -> None:
    for message in _asked(kernel, _GET, _DUMP, b""):
        connection = _attributes(message[len(_FAMILY) :]).get(_TUPLE_ORIG, b"")
        source = _attributes(_attributes(connection).get(_TUPLE_IP, b"")).get(_IP_V4_SRC, b"")
        if len(source) == _IP_V4_SIZE and chosen(IPv4Address(source)):
            with suppress(FileNotFoundError):  # it has ended meanwhile
                _asked(kernel, _DELETE, _ACK, _attribute(_TUPLE_ORIG | _NESTED, connection))


def _asked(kernel: socket.socket, kind: int, flags: int, attributes: bytes) -> list[bytes]:
    """Send a request, and return what the kernel lists.

    Raises:
        OSError: It refuses.
    """
    body = _FAMILY + attributes
    kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
    found: list[bytes] = []
    while True:
        data = kernel.recv(_MOST)
        while data:
            length, answered, _, _, _ = _HEADER.unpack_from(data)
            message, data = data[_HEADER.size : length], data[length + -length % 4 :]
            if answered in {_ERROR, _DONE}:
                (error,) = struct.unpack_from("=i", message)
                if error:
                    raise OSError(-error, os.strerror(-error))
                return found
            found.append(message)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & _TYPE] = data[4:length]
        data = data[length + -length % 4 :]
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)
