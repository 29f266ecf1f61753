"""Whether a machine may start: counted against the owner's limits and the host's memory, one decision at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from ..errors import HostExhausted
from ..sandboxes.limits import HostReserve
from ..sandboxes.quotas import Quotas
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.store import SandboxStore
from ..volumes.volume import Volume


class Admission:
    """Decides about machines before they take memory, and remembers what running ones were promised.

    Args:
        places: Where a machine writes: its own directory, and the directory of what it is made from.
        store: The records of the sandboxes.
        quotas: What each owner may have.
        reserve: What must stay free on the host.
        ahead: Returns the MiB of machines that no sandbox has yet.
        give_way: Ends one of those, and returns whether there was one.
    """

    def __init__(
        self,
        places: Sequence[Path],
        store: SandboxStore,
        quotas: Quotas,
        reserve: HostReserve,
        *,
        ahead: Callable[[], int],
        give_way: Callable[[], Awaitable[bool]],
    ) -> None:
        self._places = tuple(places)
        self._store = store
        self._quotas = quotas
        self._reserve = reserve
        self._ahead = ahead
        self._give_way = give_way
        self._promised: dict[str, _Promise] = {}
        self._one_at_a_time = anyio.Lock()

    async def admit(self, sandbox: Sandbox) -> None:
        """Store the record of a new sandbox, if its owner may have it and the host has enough memory.

        Raises:
            LimitExceeded: The owner has reached a limit.
            HostExhausted: The host lacks memory or disk space.
        """
        limits = await self._quotas.of(sandbox.owner)
        async with self._one_at_a_time:
            limits.check(await self._store.owned(sandbox.owner), cpu=sandbox.cpu, mem=sandbox.mem)
            await self._check_host(sandbox)
            self.running(sandbox)
            try:
                await self._store.insert(sandbox)
            except BaseException:
                del self._promised[sandbox.id]
                raise

    async def readmit(self, sandbox: Sandbox, machine: str) -> None:
        """Promise an existing sandbox the memory to run again; a promise that it already has stays.

        Args:
            sandbox: The sandbox.
            machine: The machine that the memory is for from now on.

        Raises:
            LimitExceeded: The owner's other sandboxes have used up the limit.
            HostExhausted: The host lacks memory or disk space.
        """
        limits = await self._quotas.of(sandbox.owner)
        async with self._one_at_a_time:
            if sandbox.id not in self._promised:
                limits.check_running(await self._store.owned(sandbox.owner), cpu=sandbox.cpu, mem=sandbox.mem)
                await self._check_host(sandbox)
            self._promised[sandbox.id] = _Promise(sandbox.mem, machine)

    async def check_snapshot(self, owner: str, existing: int) -> None:
        """Refuse a snapshot that would exceed the owner's limit.

        Raises:
            LimitExceeded: The owner has reached the limit.
        """
        (await self._quotas.of(owner)).check_snapshots(existing)

    async def check_volume(self, owner: str, existing: Collection[Volume], size: int) -> None:
        """Refuse a volume that would exceed the owner's limits.

        Raises:
            LimitExceeded: The owner has reached a limit.
        """
        used = sum(volume.size for volume in existing)
        (await self._quotas.of(owner)).check_volume(len(existing), used, size)

    def check_disk(self, place: Path) -> None:
        """Refuse large writes where little disk space is left.

        Raises:
            HostExhausted: The host lacks disk space there.
        """
        self._reserve.check_disk(place)

    def check_ahead(self, mem: int) -> None:
        """Refuse to make a machine ahead of requests.

        Raises:
            HostExhausted: The host lacks memory or disk space.
        """
        self._reserve.check(self._places, self._total(), mem)

    def running(self, sandbox: Sandbox) -> None:
        """Count the machine that a record names: it runs, or is being started."""
        self._promised[sandbox.id] = _Promise(sandbox.mem, sandbox.machine)

    def release(self, sandbox_id: str, machine: str = "") -> None:
        """Return what was promised; a no-op if nothing was.

        Args:
            sandbox_id: The sandbox.
            machine: The machine; if the promise is for another one by now, it stays. Empty for any machine.
        """
        promise = self._promised.get(sandbox_id)
        if promise is not None and machine in {"", promise.machine}:
            del self._promised[sandbox_id]

    async def _check_host(self, sandbox: Sandbox) -> None:
        while True:
            try:
                return self._reserve.check(self._places, self._total(), sandbox.mem)
            except HostExhausted:
                if not await self._give_way():
                    raise

    def _total(self) -> int:
        return sum(promise.mem for promise in self._promised.values()) + self._ahead()


@dataclass(frozen=True, slots=True)
class _Promise:
    mem: int
    machine: str
