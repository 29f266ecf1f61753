"""All sandboxes of a host with a tap, by the address that is theirs, and what the kernel forwards for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol

import anyio

from ...repeated_warnings import RepeatedWarnings
from .fast_path import CLOSED, FastPath
from .kernel_log import KernelEvent

if TYPE_CHECKING:
    from .tap_way import TapWay


class TapNetwork(Protocol):
    """Tells the kernel what to forward."""

    async def allow(self, address: IPv4Address, fast: FastPath) -> None:
        """Replace what is forwarded for a sandbox, for its open connections, too.

        Args:
            address: The sandbox's.
            fast: All of it.

        Raises:
            Unavailable: The kernel did not take it, and goes on as before.
        """
        ...


class TapWays:
    """Those that are served.

    Args:
        taps: Tells the kernel what to forward.
    """

    def __init__(self, taps: TapNetwork) -> None:
        self._taps = taps
        self._served: dict[IPv4Address, TapWay] = {}
        self._turn = anyio.Lock()
        self._warnings = RepeatedWarnings()

    def find(self, address: IPv4Address) -> TapWay | None:
        """Return the one with an address: no packet of another comes from it."""
        return self._served.get(address)

    def add(self, way: TapWay) -> None:
        """Take connections from its address to be its own; an earlier sandbox with that address has gone."""
        self._served[way.address] = way

    async def remove(self, way: TapWay) -> None:
        """Forward nothing more for it; a no-op if its address is another's by now."""
        async with self._turn:
            if self.find(way.address) is not way:
                return
            # If that fails: what has no tap sends nothing, and the next one with this address replaces it.
            with self._warnings.about("fast path not taken back", address=str(way.address)):
                await self._taps.allow(way.address, CLOSED)
            if self.find(way.address) is way:
                del self._served[way.address]

    async def allow(self, way: TapWay, fast: FastPath, *, before: FastPath) -> None:
        """Let the kernel forward this for it from now on, and nothing else.

        Args:
            way: The sandbox.
            fast: All of it.
            before: What it forwarded before, which it is told again if this fails.

        Raises:
            Unavailable: The kernel did not take it.
        """
        async with self._turn:
            if self.find(way.address) is not way:
                return
            try:
                await self._taps.allow(way.address, fast)
            except BaseException:
                # Whether a change that was given up in the middle took effect cannot be known.
                with (
                    anyio.CancelScope(shield=True),
                    self._warnings.about("fast path not restored", address=str(way.address)),
                ):
                    await self._taps.allow(way.address, before)
                raise

    async def follow(self, events: AsyncIterator[KernelEvent]) -> None:
        """Record what the kernel forwarded and refused by itself, for as long as events come."""
        async for event in events:
            way = self.find(event.source)
            if way is not None:
                with self._warnings.about("event of the kernel not recorded"):
                    way.noticed(event)
