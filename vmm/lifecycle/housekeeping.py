"""What a fleet does unasked: it takes over what an earlier server left, sweeps, and writes down uses when it ends."""

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

_RECORD_S = 5


class Housekeeping:
    """Keeps records, machines and files in accord.

    Args:
        catalogue: The images.
        machines: The machines that run.
        templates: What machines are cloned from.
        snapshots: What sandboxes can be put back to.
        recovery: Takes over what an earlier server left.
        sleeper: Wakes sandboxes.
        deaths: SandboxStore them.
        deleter: Finishes deletions.
        pool: The machines that wait.
        reaper: Looks at the clocks.
        sweep_s: How often all of it is looked at.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        machines: MachineRegistry,
        templates: Templates,
        snapshots: Snapshots,
        recovery: Recovery,
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
        sleepers = await self._recovery.adopt()
        tasks.start_soon(self._wake_again, [sandbox.id for sandbox in sleepers])
        tasks.start_soon(self._repeat, self._clean)
        # For itself, since it waits for what it puts to sleep.
        tasks.start_soon(self._repeat, self._reaper.sweep)
        tasks.start_soon(self._repeat, self._machines.ask_silent)

    def keep_ready(self, key: Key) -> None:
        """Have machines of this image and size wait, from now on those of the image as it is at each sweep."""
        self._prepared = (key.images.name, key.cpu, key.mem)
        self._pool.keep(key)

    async def end(self) -> None:
        """Write down what is only in memory, and let go of the machines, which live on."""
        with self._warnings.about("uses not recorded"), anyio.move_on_after(_RECORD_S):
            await self._reaper.record_uses()
        with self._warnings.about("waiting machines not ended"):
            await self._pool.aclose()
        await self._machines.aclose()

    async def _wake_again(self, sleepers: Sequence[str]) -> None:
        for sandbox_id in sleepers:  # one after the other, so that those that are called for are not held up
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
            # As it is today: an image may be built anew while the server runs.
            images = await self._catalogue.find(name)
            self._pool.keep(*([] if images is None else [Key(images=images, cpu=cpu, mem=mem)]))

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(self._sweep_s)
            with self._warnings.about("sweep failed", of=work.__qualname__):
                await work()
