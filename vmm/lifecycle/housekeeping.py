"""What a fleet does on its own: adopts what an earlier server left, sweeps, and records uses when it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from ..images.catalogue import Catalogue
from ..machines.registry import MachineRegistry
from ..machines.snapshots import Snapshots
from ..machines.templates import Templates
from ..machines.warm_pool import Key, WarmPool
from ..repeated_warnings import RepeatedWarnings
from .deaths import Deaths
from .delete import Deleter
from .reaper import Reaper
from .recovery import Recovery
from .sleep import Sleeper
from .volume_keeper import VolumeKeeper

_RECORD_S = 5


class Housekeeping:
    """Keeps records, machines and files consistent.

    Args:
        catalogue: The images.
        machines: The machines that run.
        templates: Templates that machines are cloned from.
        snapshots: Snapshots to restore sandboxes from.
        recovery: Adopts what an earlier server left.
        keeper: Finishes what an earlier server did with volumes.
        sleeper: Wakes sandboxes.
        deaths: Records machines that ended unexpectedly.
        deleter: Finishes deletions.
        pool: Machines that are ready for new sandboxes.
        reaper: Checks timers.
        sweep_s: Seconds between sweeps.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        machines: MachineRegistry,
        templates: Templates,
        snapshots: Snapshots,
        recovery: Recovery,
        keeper: VolumeKeeper,
        sleeper: Sleeper,
        deaths: Deaths,
        deleter: Deleter,
        pool: WarmPool,
        reaper: Reaper,
        sweep_s: float,
    ) -> None:
        self._catalogue = catalogue
        self._machines = machines
        self._templates = templates
        self._snapshots = snapshots
        self._recovery = recovery
        self._keeper = keeper
        self._sleeper = sleeper
        self._deaths = deaths
        self._deleter = deleter
        self._pool = pool
        self._reaper = reaper
        self._sweep_s = sweep_s
        self._prepared: tuple[str, int, int] | None = None
        self._warnings = RepeatedWarnings()

    async def begin(self, tasks: TaskGroup) -> None:
        """Adopt the machines that run and clean up the rest; from then on, sweep until the tasks end."""
        await self._snapshots.sweep()
        await self._templates.sweep()
        await self._keeper.recover()
        sleepers = await self._recovery.adopt()
        await self._keeper.settle()
        tasks.start_soon(self._wake_again, [sandbox.id for sandbox in sleepers])
        tasks.start_soon(self._repeat, self._clean)
        # A task of its own, because it waits for sandboxes to fall asleep.
        tasks.start_soon(self._repeat, self._reaper.sweep)
        tasks.start_soon(self._repeat, self._machines.ask_silent)

    def keep_ready(self, key: Key) -> None:
        """Keep machines of this image and size ready; after an image is rebuilt, the next sweep uses the new one."""
        self._prepared = (key.images.name, key.cpu, key.mem)
        self._pool.keep(key)

    async def end(self) -> None:
        """Record what is only in memory, and let go of the machines, which keep running."""
        with self._warnings.about("uses not recorded"), anyio.move_on_after(_RECORD_S):
            await self._reaper.record_uses()
        with self._warnings.about("waiting machines not ended"):
            await self._pool.aclose()
        await self._machines.aclose()

    async def _wake_again(self, sleepers: Sequence[str]) -> None:
        for sandbox_id in sleepers:  # one at a time, so that sandboxes in use are not delayed
            with self._warnings.about("machine not woken", sandbox=sandbox_id):
                await self._sleeper.wake(sandbox_id)

    async def _clean(self) -> None:
        for what, step in (
            ("machines not resumed", self._machines.resume_stalled),
            ("deaths not recorded", self._deaths.record),
            ("no machines made ahead", self._renew_ready),
            ("deletions not finished", self._deleter.finish),
        ):
            with self._warnings.about(what):
                await step()

    async def _renew_ready(self) -> None:
        if self._prepared is not None:
            name, cpu, mem = self._prepared
            # The current build: an image may be rebuilt while the server runs.
            images = await self._catalogue.find(name)
            self._pool.keep(*([] if images is None else [Key(images=images, cpu=cpu, mem=mem)]))

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(self._sweep_s)
            with self._warnings.about("sweep failed", of=work.__qualname__):
                await work()
