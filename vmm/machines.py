"""The machines that run on this host, one per sandbox: adopted after a restart, watched, destroyed."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from .errors import CasemateError
from .hypervisor.base import Hypervisor
from .hypervisor.process import ProcessRef, strays
from .machine import Machine, remove

log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-f]{24}")
_STRAY_DEADLINE_S = 10
_DYING_S = 1
_DYING_POLL_S = 0.01
_AILMENT_S = 0.8

RESTART = (
    "restart it (restart_sandbox), which starts it again from its disk: files stay, programs and memory are lost; "
    "or put it back to a snapshot (restore_snapshot)"
)
"""What to do about a guest that does not answer."""


class Machines:
    """The machines below one directory, and which sandbox's each is.

    Args:
        driver: Their hypervisor.
        root: Holds one directory per machine; it belongs to this object alone.
        tasks: Where machines are watched.
        on_death: Told the id and the reason when a machine ends that nobody destroyed.
    """

    def __init__(
        self,
        driver: Hypervisor,
        root: Path,
        tasks: TaskGroup,
        on_death: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._driver = driver
        self._root = root
        self._tasks = tasks
        self._on_death = on_death
        self._running: dict[str, Machine] = {}
        self._stalled: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._running)

    def get(self, sandbox_id: str) -> Machine | None:
        """The sandbox's machine, if it has one that runs."""
        return self._running.get(sandbox_id)

    def sandboxes(self) -> list[str]:
        """The ids of the sandboxes whose machines run."""
        return list(self._running)

    def directory(self, name: str) -> Path:
        """The directory of a machine of that name, 24 hex digits."""
        return self._root / name

    def attach(self, sandbox_id: str, machine: Machine) -> None:
        """Let a machine be a sandbox's from now on, and watch it. One that it had before is the caller's."""
        self._running[sandbox_id] = machine
        self._stalled.pop(sandbox_id, None)
        self._tasks.start_soon(self._report_end, sandbox_id, machine)

    def detach(self, sandbox_id: str) -> Machine | None:
        """Let go of a sandbox's machine, whose end is no death from now on; None if none runs."""
        self._stalled.pop(sandbox_id, None)
        return self._running.pop(sandbox_id, None)

    async def adopt(self, sandbox_id: str, name: str) -> Machine | None:
        """Take over a sandbox's machine from an earlier server; None if it does not run any more."""
        machine = await Machine.adopt(self._driver, self._root / name)
        if machine is not None:
            self.attach(sandbox_id, machine)
        return machine

    async def end(self, sandbox_id: str) -> None:
        """End a sandbox's machine; its files stay. A no-op if none runs."""
        machine = self.detach(sandbox_id)
        if machine is not None:
            await machine.stop()

    async def destroy(self, sandbox_id: str, name: str) -> None:
        """End a sandbox's machine and remove everything of it. Needs no guest, may be repeated, may find nothing.

        Raises:
            TimeoutError: The kernel did not end a process in time; call again.
        """
        directory = self._root / name
        running = self._running.get(sandbox_id)
        if running is not None and running.directory == directory:
            self.detach(sandbox_id)
            await running.stop()
        elif directory.exists():
            await self.end_strays(name)
        await remove(directory)

    async def end_strays(self, name: str) -> None:
        """End the processes that still work in a machine's directory, though nobody knows them.

        Raises:
            TimeoutError: The kernel did not end a process in time; call again.
        """
        directory = (self._root / name).resolve()
        await _end((await anyio.to_thread.run_sync(strays, self._root)).get(directory, []))

    async def sweep(self, *, running: Collection[str], kept: Collection[str]) -> int:
        """Remove what belongs to nobody: processes of machines that should not run, directories of unknown ones.

        What has another name than a machine has is somebody else's, and stays.

        Args:
            running: Machines whose processes stay.
            kept: Machines whose directories stay; those that run among them.

        Returns:
            How many processes and directories were removed.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        swept = 0
        root = self._root.resolve()
        for directory, processes in (await anyio.to_thread.run_sync(strays, root)).items():
            name, *below = directory.relative_to(root).parts
            # What works below a machine's directory helps an earlier server to save it.
            if _ID.fullmatch(name) and (below or name not in running):
                await _end(processes)
                swept += len(processes)
        for directory in list(self._root.iterdir()):
            if _ID.fullmatch(directory.name) and directory.name not in kept:
                await remove(directory)
                swept += 1
        return swept

    async def gone(self, sandbox_id: str, machine: Machine) -> bool:
        """Whether a machine whose connection broke has ended; a process takes a moment to die after its sockets."""
        with anyio.move_on_after(_DYING_S):
            while self._running.get(sandbox_id) is machine:
                await anyio.sleep(_DYING_POLL_S)
        return self._running.get(sandbox_id) is not machine

    async def ailment(self, sandbox_id: str) -> str:
        """Why a sandbox's living machine does not run; empty if it runs. `resume_stalled` will see to it.

        A hypervisor that does not say so within a second says nothing: it may be what is wedged.
        """
        machine = self._running.get(sandbox_id)
        ailment = ""
        if machine is not None:
            with anyio.move_on_after(_AILMENT_S):
                ailment = await machine.driver.ailment(machine.running)
        if ailment:
            self._stalled[sandbox_id] = ailment
        return ailment

    def silence(self, sandbox_id: str) -> str:
        """Why a sandbox's guest does not answer, in words for its owner; empty if it does, as far as is known."""
        machine = self._running.get(sandbox_id)
        if machine is None or not machine.link.silent_s:
            return ""
        if ailment := self._stalled.get(sandbox_id):
            return f"its machine stands still: {ailment}; it goes on by itself once the host has room again"
        silent_s = math.ceil(machine.link.silent_s)
        return f"its guest has not answered for {silent_s} s; if it does not come back by itself, {RESTART}"

    async def ask_silent(self) -> None:
        """Ask the guests that do not answer once more, and learn what keeps their machines from running."""
        async with anyio.create_task_group() as tasks:
            for sandbox_id, machine in list(self._running.items()):
                if machine.link.silent_s:
                    tasks.start_soon(self._ask_again, sandbox_id, machine)

    async def _ask_again(self, sandbox_id: str, machine: Machine) -> None:
        if await machine.link.answers():
            log.info("guest answers again", sandbox=sandbox_id)
        else:
            await self.ailment(sandbox_id)

    async def resume_stalled(self) -> None:
        """Let machines go on that were stopped for want of something the host may have again."""
        for sandbox_id in list(self._stalled):
            machine = self._running.get(sandbox_id)
            try:
                if machine is not None:
                    await machine.driver.resume(machine.running)
                self._stalled.pop(sandbox_id, None)
            except CasemateError as error:
                log.warning("machine not resumed", sandbox=sandbox_id, error=error.message)

    async def aclose(self) -> None:
        """Let go of all machines; they live on."""
        for machine in self._running.values():
            await machine.link.aclose()
        self._running.clear()

    async def _report_end(self, sandbox_id: str, machine: Machine) -> None:
        reason = await machine.ended()
        if self._running.get(sandbox_id) is machine:
            # First, so that nobody starts another in its directory while its things are taken from there.
            await machine.stop()
        if self._running.get(sandbox_id) is machine:
            del self._running[sandbox_id]
            await self._on_death(sandbox_id, reason)


async def _end(processes: Collection[ProcessRef]) -> None:
    for process in processes:
        await process.kill(deadline_s=_STRAY_DEADLINE_S)
