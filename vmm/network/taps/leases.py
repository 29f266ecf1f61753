"""The addresses of a network, each lent to one sandbox at a time."""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Address, IPv4Interface

from ...errors import Conflict, HostExhausted


class Leases:
    """A pool; an address that came back waits until all that came back before it, and those never used, are lent.

    Args:
        gateway: The host's own address, with the length of the network.
    """

    def __init__(self, gateway: IPv4Interface) -> None:
        self._network = gateway.network
        self._gateway = gateway.ip
        self._lent: set[IPv4Address] = set()
        self._fresh = 1  # the number of the next address that was never lent; 0 is the network's own
        self._returned: deque[IPv4Address] = deque()

    def __len__(self) -> int:
        """Count the addresses that are lent."""
        return len(self._lent)

    @property
    def size(self) -> int:
        """How many there are, lent or not."""
        return self._network.num_addresses - 3  # the network's, the gateway's, the broadcast address

    def lend(self) -> IPv4Address:
        """Lend any address.

        Raises:
            HostExhausted: All are lent.
        """
        while self._fresh < self._network.num_addresses - 1:
            address = self._network[self._fresh]
            self._fresh += 1
            if address != self._gateway and address not in self._lent:
                self._lent.add(address)
                return address
        if not self._returned:
            raise HostExhausted(
                f"The address pool is full: all {self.size} addresses of {self._network} are in use",
                hint="Let sandboxes sleep or delete some, or set NETWORK_CIDR to a larger network",
            )
        address = self._returned.popleft()
        self._lent.add(address)
        return address

    def claim(self, address: IPv4Address) -> None:
        """Lend this very address.

        Raises:
            Conflict: It is lent already, or no sandbox of this network can have it.
        """
        ends = self._network.network_address, self._network.broadcast_address
        if address not in self._network or address in {self._gateway, *ends}:
            raise Conflict(f"Address {address} is not for a sandbox in {self._network}")
        if address in self._lent:
            raise Conflict(f"Address {address} is in use by another sandbox")
        self._lent.add(address)
        if address in self._returned:
            self._returned.remove(address)

    def give_back(self, address: IPv4Address) -> None:
        """Take an address back that is lent."""
        self._lent.remove(address)
        # Those that were claimed come up once more when it is their turn as fresh ones.
        if int(address) - int(self._network.network_address) < self._fresh:
            self._returned.append(address)
