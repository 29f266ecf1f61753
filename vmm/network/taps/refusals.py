"""What it means here that the kernel refuses something."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...errors import Unavailable

_CAP_NET_ADMIN = 12
_STATUS = Path("/proc/thread-self/status")


def require_privilege() -> None:
    """Refuse at once what would fail half-way.

    Raises:
        Unavailable: This thread has no CAP_NET_ADMIN.
    """
    held = next(line for line in _STATUS.read_text().splitlines() if line.startswith("CapEff:"))
    if not int(held.split()[1], 16) >> _CAP_NET_ADMIN & 1:
        raise no_privilege()


def no_privilege() -> Unavailable:
    """Make the error for a lack of CAP_NET_ADMIN."""
    return Unavailable(
        "Taps need CAP_NET_ADMIN, which this process does not have",
        hint="Run it as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN",
    )


@contextmanager
def explained() -> Generator[None]:
    """Turn the kernel's errors into ours.

    Raises:
        Unavailable: Whatever it refused.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPERM:
            raise no_privilege() from error
        if error.errno == errno.EOPNOTSUPP:
            raise Unavailable(
                "Taps need bridges in the kernel, which has none", hint="Run: modprobe bridge; or use another kernel"
            ) from error
        raise Unavailable(f"The kernel refuses to set up taps: {error}") from error
