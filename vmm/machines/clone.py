"""Makes machines of saved moments, with memory in the way that the hypervisor is best off with."""

from __future__ import annotations

from storage.ids import new_id

from ..hypervisor.base import Hypervisor
from .checkpoint import Checkpoint
from .machine import Machine, remove
from .registry import MachineRegistry
from .templates import Report, Templates
from .warm_pool import Key

_AHEAD = "ready"


async def silent(_step: str) -> None:
    """Report to nobody."""


class Cloner:
    """Makes machines of saved moments, in directories of their own.

    Args:
        driver: The hypervisor.
        machines: Where they run.
        templates: What new ones are made of.
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
        """A machine that has proved itself; see `Machine.clone`."""
        directory = self._machines.directory(name)
        return await Machine.clone(
            self._driver, checkpoint, directory, hostname=hostname, machine_id=machine_id, own=self._own_memory
        )

    async def template(self, key: Key, report: Report = silent) -> Checkpoint:
        """What machines of an image and a size are made of."""
        return await self._templates.get(key.images, cpu=key.cpu, mem=key.mem, report=report)

    async def ahead(self, key: Key) -> Machine:
        """A machine that nobody has asked for yet."""
        return await self.clone(await self.template(key), new_id(), hostname=_AHEAD)


async def end(machine: Machine) -> None:
    """End a machine that is no sandbox's, and remove everything of it. May be repeated."""
    await machine.stop()
    await remove(machine.directory)
