"""A tap that leads nowhere, for a machine that has a network device where the host connects none.

A saved device that had a tap loads only with a tap: its state says that packets have a header (IFF_VNET_HDR), and its
guest relies on what only a tap can do for it. This one is in a network namespace of its own, which nobody else is in
and which ends with the program that has the descriptor. It is up, with no address: packets to one that is down are an
error, at which cloud-hypervisor ends the device's thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..disk.os_errors import EXHAUSTED, translate_os_error
from ..errors import Conflict

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NET = 0x40000000
_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TAP, _NO_PI, _VNET_HDR = 0x2, 0x1000, 0x4000
_SIOCSIFFLAGS, _UP = 0x8914, 0x1
_NAME = b"blind"


def blind_tap() -> int:
    """Open a tap, whose descriptor the caller closes. Blocks on the kernel, for a few milliseconds.

    Raises:
        Conflict: This server may not.
    """
    try:
        # A thread of its own, which ends: it cannot go back without more privileges than it needs to leave.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_opened).result()
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise translate_os_error(error, "a machine's network device", Path(_DEVICE)) from error
        raise Conflict(
            f"The machine has a network device, for which this server can make no tap: {error}",
            hint="Start it from its disk, which needs none, or let the server make taps again",
        ) from error


def _opened() -> int:
    if _LIBC.unshare(_NEW_NET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no network namespace: {os.strerror(number)}")
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", _NAME, _TAP | _NO_PI | _VNET_HDR))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _NAME, _UP))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
