"""A machine's network device besides its link: what the guest is told of it, and who makes the host's end, a tap."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Protocol, Self

BOOT_MAC = "02:ca:5e:00:00:01"
"""The address of the device while a machine boots, by which the agent finds it and later gives it its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network device as the guest is told.

    Attributes:
        mac: Its hardware address, such as `02:00:0a:29:00:02`.
        address: Its address with the length of the network's prefix, such as `10.41.0.2/32`.
        gateway: The next hop for everything else, whether it is in that network or not, and the resolver.
    """

    mac: str
    address: IPv4Interface
    gateway: IPv4Address

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Self:
        """Read what `texts` has written.

        Raises:
            ValueError: It is something else.
        """
        try:
            address, gateway = IPv4Interface(texts["address"]), IPv4Address(texts["gateway"])
            return cls(mac=texts["mac"], address=address, gateway=gateway)
        except KeyError as error:
            raise ValueError(f"a network device must have a {error.args[0]}") from None

    def texts(self) -> dict[str, str]:
        """Return its fields as the agent and the machine's record have them."""
        return {"mac": self.mac, "address": str(self.address), "gateway": str(self.gateway)}


class Nics(Protocol):
    """Makes the taps of this host's machines and gives them addresses."""

    def attached(self, directory: Path) -> AbstractAsyncContextManager[tuple[Nic, int]]:
        """Make a tap for the machine in that directory, for the program that is started in the block.

        The descriptor is open for the length of the block; if the block raises, everything is undone.
        """
        ...

    async def adopt(self, directory: Path, nic: Nic) -> None:
        """Take over the device of a machine that an earlier server started.

        Raises:
            Conflict: Its address is not of this network any more.
        """
        ...

    async def release(self, directory: Path) -> None:
        """Free a machine's address after its process has ended. May be repeated."""
        ...

    async def sweep(self) -> None:
        """Forget machines that ended without a release, while no server was there or before one adopted them.

        Raises:
            Unavailable: The host refuses.
        """
        ...
