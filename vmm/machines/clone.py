"""Makes machines from checkpoints, with memory in the way that suits the hypervisor."""

from __future__ import annotations

from storage.ids import new_id

from ..hypervisor.base import Hypervisor
from .checkpoint import Checkpoint
from .machine import Machine, remove
from .registry import MachineRegistry
from .templates import Report, Templates
from .warm_pool import Key

_AHEAD = "ready"


async def no_progress(_step: str) -> None:
    """Ignore a report."""


class Cloner:
    """Makes machines from checkpoints, in directories of their own.

    Args:
        driver: The hypervisor.
        machines: The machines that run.
        templates: Templates of new machines.
        own_memory: Whether each has a memory file of its own from the start, rather than from its first sleep.
    """

    def __init__(
        self, driver: Hypervisor, machines: MachineRegistry, templates: Templates, *, own_memory: bool
    ) -> None:
        self._driver = driver
        self._machines = machines
        self._templates = templates
        self._own_memory = own_memory

    async def clone(self, checkpoint: Checkpoint, name: str, *, hostname: str, machine_id: str = "") -> Machine:
        """Make a machine that has proved its identity; see `Machine.clone`."""
        directory = self._machines.directory(name)
        return await Machine.clone(
            self._driver, checkpoint, directory, hostname=hostname, machine_id=machine_id, own=self._own_memory
        )

    async def template(self, key: Key, report: Report = no_progress) -> Checkpoint:
        """Return the template of an image and a size."""
        return await self._templates.get(key.images, cpu=key.cpu, mem=key.mem, report=report)

    async def ahead(self, key: Key) -> Machine:
        """Make a machine ahead of requests."""
        return await self.clone(await self.template(key), new_id(), hostname=_AHEAD)


async def end(machine: Machine) -> None:
    """End a machine that belongs to no sandbox, and remove everything of it. May be repeated."""
    await machine.stop()
    await remove(machine.directory)
