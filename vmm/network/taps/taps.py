"""The taps of a host's machines: an address for each, what binds the two, and what the kernel forwards for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from ...errors import Conflict
from ...hypervisor.nic import Nic
from . import conntrack, host, leftovers, nft, refusals, ruleset
from .elements import Element, elements
from .fast_path import FastPath
from .leases import Leases
from .settings import TapSettings, mac
from .tap import Taken, Tap

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True, kw_only=True)
class _Lease:
    """An address that a machine has.

    Attributes:
        held: What is in the sets for it.
        bound: Whether its frames pass.
        turn: Only one change of it at a time, in the order in which they were asked for.
    """

    address: IPv4Address
    held: frozenset[Element] = frozenset()
    bound: bool = False
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class Taps:
    """Gives machines their taps: implements `Nics`.

    Args:
        settings: The bridge, which is up.
    """

    def __init__(self, settings: TapSettings) -> None:
        self.settings = settings
        self._leases = Leases(settings.gateway)
        self._machines: dict[Path, _Lease] = {}
        self._by_address: dict[IPv4Address, _Lease] = {}
        self._warned = False

    @classmethod
    async def open(cls, settings: TapSettings, *, denied: Sequence[IPv4Network], ports: tuple[int, int]) -> Taps:
        """Switch the bridge on, with new tables. Machines of an earlier server have no network until they are adopted.

        Args:
            settings: The bridge.
            denied: What the kernel never forwards, besides the host's own addresses and the network of the bridge.
            ports: Where the server takes TCP, and DNS over UDP, on the gateway's address.

        Raises:
            Conflict, Unavailable: As of `host.up`.
        """
        tables = ruleset.tables(settings, denied=denied, ports=ports)
        await anyio.to_thread.run_sync(host.up, settings, tables)
        return cls(settings)

    async def aclose(self) -> None:
        """Let go of everything as it is: machines run on, so the bridge, its tables and their taps stay."""
        self._machines.clear()
        self._by_address.clear()

    def __len__(self) -> int:
        """Count the machines that have a tap."""
        return len(self._machines)

    def address(self, directory: Path) -> IPv4Address | None:
        """Return the address of the machine in that directory."""
        lease = self._machines.get(directory)
        return lease.address if lease else None

    @asynccontextmanager
    async def attached(self, directory: Path) -> AsyncGenerator[tuple[Nic, int]]:
        """Make a tap for the machine in that directory, whose process takes its descriptor within the block.

        Its frames pass after the first `allow`: before, it has no policy. If the block raises, everything is undone.

        Raises:
            Conflict: The bridge has gone.
            HostExhausted: The address pool is full.
            Unavailable: The kernel refuses.
        """
        await self.release(directory)  # a machine has one at most
        tap = await self._free(directory)
        try:
            await _in_thread(tap.connect)
            yield self._nic(self._machines[directory].address), tap.fileno()
        except BaseException:
            tap.close()
            with anyio.CancelScope(shield=True):
                await self.release(directory)
            raise
        finally:
            tap.close()

    async def adopt(self, directory: Path, nic: Nic) -> None:
        """Take over the tap of a machine that an earlier server started. Its frames pass after its first `allow`.

        Until then they wait, instead of ending what it has open.

        Raises:
            Conflict: The address is not of this network any more, another machine has it, or its tap has gone.
            Unavailable: The kernel refuses.
        """
        address = nic.address.ip
        if nic != self._nic(address):
            raise Conflict(
                f"The machine has {nic.address} behind {nic.gateway}, and the network is {self.settings.gateway} now",
                hint="Stop it and start it again",
            )
        if self.address(directory) == address:
            return
        await self.release(directory)
        self._leases.claim(address)
        self._lend(directory, address)
        try:
            await _in_thread(Tap(self.settings, address).connect)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.release(directory)
            raise

    async def release(self, directory: Path) -> None:
        """Take a machine's address back, and all that the kernel knows of it. May be repeated.

        Raises:
            Unavailable: The kernel refuses. The address is not lent again until a later call works.
        """
        lease = self._machines.get(directory)
        if lease is None:
            return
        async with lease.turn:
            if self._machines.get(directory) is not lease:
                return
            await _in_thread(lambda: self._forget(lease))
            del self._machines[directory], self._by_address[lease.address]
            self._leases.give_back(lease.address)

    async def sweep(self) -> None:
        """Forget the neighbours and connections of machines that ended without a release: their taps have gone.

        Raises:
            Unavailable: The kernel refuses.
        """
        await _in_thread(lambda: leftovers.forget(self.settings))

    async def allow(self, address: IPv4Address, fast: FastPath) -> None:
        """Replace what the kernel forwards for an address, in one step; what is open and not in it ends.

        A no-op if no machine has that address (any more).

        Raises:
            Unavailable: The kernel refuses; what was before still applies.
        """
        lease = self._by_address.get(address)
        if lease is None:
            return
        async with lease.turn:
            if self._by_address.get(address) is lease:
                await _in_thread(lambda: self._apply(lease, elements(address, fast)))

    async def _free(self, directory: Path) -> Tap:
        """Make a tap of an address that is free; other programs may hold some."""
        taken: list[IPv4Address] = []
        try:
            while True:
                address = self._leases.lend()
                tap = Tap(self.settings, address)
                try:
                    await _in_thread(tap.open)
                except Taken:
                    taken.append(address)
                    continue
                except BaseException:
                    self._leases.give_back(address)
                    raise
                self._lend(directory, address)
                return tap
        finally:
            for address in taken:
                self._leases.give_back(address)

    def _lend(self, directory: Path, address: IPv4Address) -> None:
        self._machines[directory] = self._by_address[address] = _Lease(address=address)

    def _nic(self, address: IPv4Address) -> Nic:
        # A network of its own, so that what is meant for a neighbour comes here, where it is refused and explained.
        own, gateway = IPv4Interface(address), self.settings.gateway
        return Nic(mac=mac(address), address=own, gateway=gateway.ip)

    def _apply(self, lease: _Lease, wanted: frozenset[Element]) -> None:
        text = ruleset.change(self.settings, lease.held, wanted)
        if not lease.bound:
            text += ruleset.binding(self.settings, lease.address)
        if text:
            nft.run(text)
        # Here, in the thread, which goes on whatever becomes of the task that waits for it.
        lease.held, lease.bound = wanted, True

    def _forget(self, lease: _Lease) -> None:
        nft.run(ruleset.release(self.settings, lease.address, lease.held))
        Tap(self.settings, lease.address).forget()
        try:
            conntrack.forget(lease.address)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("connections of released addresses stay in the kernel's table", reason=str(error))


async def _in_thread(work: Callable[[], None]) -> None:
    def explained() -> None:
        with refusals.explained():
            work()

    await anyio.to_thread.run_sync(explained)
