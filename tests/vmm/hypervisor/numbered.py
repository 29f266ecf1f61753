"""Addresses for machines without a network behind them, for tests of what is remembered and passed on."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from vmm.errors import Conflict
from vmm.hypervisor.nic import Nic


class Numbered:
    """Gives addresses in the order of calls, and descriptors that lead nowhere.

    Attributes:
        network: The first three bytes of its addresses.
        used: The machines that have an address.
    """

    def __init__(self, network: str = "10.41.0") -> None:
        self.network = network
        self.used: dict[Path, Nic] = {}
        self._last = 1

    @asynccontextmanager
    async def attached(self, directory: Path) -> AsyncGenerator[tuple[Nic, int]]:
        self._last += 1
        address = IPv4Interface(f"{self.network}.{self._last}/24")
        nic = Nic(mac="02:00:" + address.packed.hex(":"), address=address, gateway=IPv4Address(f"{self.network}.1"))
        descriptor = os.open(os.devnull, os.O_RDWR)
        self.used[directory] = nic
        try:
            yield nic, descriptor
        except BaseException:
            del self.used[directory]
            raise
        finally:
            os.close(descriptor)

    async def adopt(self, directory: Path, nic: Nic) -> None:
        if not str(nic.address).startswith(self.network):
            raise Conflict(f"{nic.address} is of another network")
        self.used[directory] = nic

    async def release(self, directory: Path) -> None:
        self.used.pop(directory, None)

    async def sweep(self) -> None:
        return
