"""What the kernel may forward for a sandbox by itself, because no name decides about it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPath:
    """What the kernel forwards, except to what is denied to all sandboxes.

    Attributes:
        internet: Everything.
        networks: Else what goes to these.
        ports: Of the networks, only these TCP ports; none: every protocol and port.
    """

    internet: bool = False
    networks: tuple[IPv4Network, ...] = ()
    ports: tuple[int, ...] = ()


CLOSED = FastPath()
