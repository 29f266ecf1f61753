"""What terminals and sessions share: opening a pseudo-terminal, and its size."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Any

from .arguments import Arguments
from .refusals import GUEST, RefusalError, invalid
from .users import User

_MAX_SIDE = 1000


def open_pair(user: User, cols: int, rows: int) -> tuple[int, int]:
    """Open a pseudo-terminal that belongs to a user; return its master, which does not block, and its slave.

    Raises:
        RefusalError: There are no more.
    """
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise RefusalError(GUEST, f"could not open a terminal: {os.strerror(error.errno or 0)}") from error
    try:
        resize(master, cols, rows)
        if os.geteuid() == 0:
            os.fchown(slave, user.uid, -1)
        os.set_blocking(master, False)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def size(arguments: Arguments) -> tuple[int, int]:
    """Return the columns and rows of a request, by default 80 and 24.

    Raises:
        RefusalError: One of them is out of range.
    """
    cols, rows = arguments.integer("cols", 80, least=1), arguments.integer("rows", 24, least=1)
    if max(cols, rows) > _MAX_SIDE:
        raise invalid(f"size must be 1x1 to {_MAX_SIDE}x{_MAX_SIDE}, got {cols}x{rows}")
    return cols, rows


def resize(master: int, cols: int, rows: int) -> None:
    """Set the size; the program gets SIGWINCH if it changes."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def set_controlling(descriptor: int) -> None:
    """Make a terminal the controlling one of the calling process, which leads a session without one."""
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def silence(master: int) -> list[Any]:
    """Turn off the echo of input and the translation of line ends; return the modes for `termios.tcsetattr`."""
    modes = termios.tcgetattr(master)
    modes[1] &= ~termios.OPOST
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(master, termios.TCSANOW, modes)
    return modes
