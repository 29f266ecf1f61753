"""Dials a destination, and says why it cannot be reached."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Address

import anyio
from anyio.abc import ByteStream

from .tcp import Connect

_NO_ROUTE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})


class EgressRefused(Exception):
    """A connection was not made, or was ended: the program in the guest gets a reset.

    Attributes:
        reason: Why, as the log has it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unreachable(EgressRefused):
    """The policy allows the connection, but its destination does not accept it."""


async def reach(connect: Connect, address: IPv4Address, port: int, *, within_s: float) -> ByteStream:
    """Connect to a destination.

    Raises:
        Unreachable: It refuses, does not answer in time, or there is no way to it.
    """
    try:
        with anyio.fail_after(within_s):
            return await connect(address, port)
    except OSError as error:  # a TimeoutError, too
        raise Unreachable(f"not reachable: {_trouble(error, within_s)}") from error


def _trouble(error: OSError, within_s: float) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if error.errno in _NO_ROUTE:
        return "no route to it"
    if isinstance(error, TimeoutError):
        return f"no answer within {within_s:g} s"
    return os.strerror(error.errno) if error.errno else str(error)
