"""The machines that run on this host, one per sandbox: adopted after a restart, watched, destroyed."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from ..disk.os_errors import translate_os_errors
from ..hypervisor.base import Hypervisor
from ..hypervisor.process import ProcessRef, orphans
from ..repeated_warnings import RepeatedWarnings
from .machine import Machine, remove

log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-f]{24}")
_ORPHAN_DEADLINE_S = 10
_DYING_S = 1
_DYING_POLL_S = 0.01
_WATCH_AGAIN_S = 1
_PROBLEM_S = 0.8

RESTART = (
    "restart it (restart_sandbox), which starts it again from its disk: files stay, programs and memory are lost; "
    "or put it back to a snapshot (restore_snapshot)"
)
"""What to do about a guest that does not answer."""


class MachineRegistry:
    """The machines below one directory, and which sandbox's each is.

    Args:
        driver: Their hypervisor.
        root: Holds one directory per machine; it belongs to this object alone.
        tasks: Where machines are watched.
        on_death: Told the id, the machine's name and the reason when a machine ends that nobody destroyed.
    """

    def __init__(
        self,
        driver: Hypervisor,
        root: Path,
        tasks: TaskGroup,
        on_death: Callable[[str, str, str], Awaitable[None]],
    ) -> None:
        self._driver = driver
        self._root = root
        self._tasks = tasks
        self._on_death = on_death
        self._running: dict[str, Machine] = {}
        self._stalled: dict[str, str] = {}
        self._warnings = RepeatedWarnings()

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
        """Take over a sandbox's machine from an earlier server; None if it does not run any more.

        Raises:
            Damaged: Its record cannot be read.
        """
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
            Unavailable: The kernel did not end a process in time, or the host refuses it; call again.
        """
        directory = self._root / name
        running = self._running.get(sandbox_id)
        if running is not None and running.directory == directory:
            self.detach(sandbox_id)
            await running.stop()
        elif directory.exists():
            await self.end_orphans(name)
        await remove(directory)

    async def end_orphans(self, name: str) -> None:
        """End the processes that still work in a machine's directory, though nobody knows them.

        Raises:
            Unavailable: The kernel did not end a process in time, or the host refuses it; call again.
        """
        with translate_os_errors("the end of a machine's processes", self._root / name):
            await _end(await self._working_in(name))

    async def has_process(self, name: str) -> bool:
        """Whether a process works in a machine's directory, whoever knows of it."""
        return bool(await self._working_in(name))

    async def sweep(self, *, running: Collection[str], kept: Collection[str]) -> int:
        """Remove what belongs to nobody: processes of machines that should not run, directories of unknown ones.

        What has another name than a machine has is somebody else's, and stays. What does not go is told, and stays.

        Args:
            running: MachineRegistry whose processes stay.
            kept: MachineRegistry whose directories stay; those that run among them.

        Returns:
            How many processes and directories were to be removed.

        Raises:
            HostExhausted: The directory cannot be made or read.
            Unavailable: Likewise.
        """
        with translate_os_errors("the directory of machines", self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            root = self._root.resolve()
            directories = list(root.iterdir())
            working = await anyio.to_thread.run_sync(orphans, root)
        swept = 0
        stuck: set[str] = set()
        for directory, processes in working.items():
            name, *below = directory.relative_to(root).parts
            # What works below a machine's directory helps an earlier server to save it.
            if _ID.fullmatch(name) and (below or name not in running):
                swept += len(processes)
                with self._warnings.about("process of an unknown machine not ended", directory=str(directory)):
                    await _end(processes)
                    continue
                stuck.add(name)
        for directory in directories:
            if _ID.fullmatch(directory.name) and directory.name not in stuck.union(kept):
                swept += 1
                with self._warnings.about("unknown machine not removed", directory=str(directory)):
                    await remove(directory)
        return swept

    async def gone(self, sandbox_id: str, machine: Machine) -> bool:
        """Whether a machine whose connection broke has ended; a process takes a moment to die after its sockets."""
        with anyio.move_on_after(_DYING_S):
            while self._running.get(sandbox_id) is machine:
                await anyio.sleep(_DYING_POLL_S)
        return self._running.get(sandbox_id) is not machine

    async def problem(self, sandbox_id: str) -> str:
        """Why a sandbox's living machine does not run; empty if it runs. `resume_stalled` will see to it.

        A hypervisor that does not say so within a second says nothing: it may be what is wedged.
        """
        machine = self._running.get(sandbox_id)
        problem = ""
        if machine is not None:
            with anyio.move_on_after(_PROBLEM_S):
                problem = await machine.driver.problem(machine.running)
        if problem:
            self._stalled[sandbox_id] = problem
        return problem

    def silence(self, sandbox_id: str) -> str:
        """Why a sandbox's guest does not answer, in words for its owner; empty if it does, as far as is known."""
        machine = self._running.get(sandbox_id)
        if machine is None or not machine.link.silent_s:
            return ""
        if problem := self._stalled.get(sandbox_id):
            return f"its machine stands still: {problem}; it goes on by itself once the host has room again"
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
            await self.problem(sandbox_id)

    async def resume_stalled(self) -> None:
        """Let machines go on that were stopped for want of something the host may have again."""
        for sandbox_id in list(self._stalled):
            machine = self._running.get(sandbox_id)
            with self._warnings.about("machine not resumed", sandbox=sandbox_id):
                if machine is not None:
                    await machine.driver.resume(machine.running)
                self._stalled.pop(sandbox_id, None)

    async def aclose(self) -> None:
        """Let go of all machines; they live on."""
        for machine in self._running.values():
            await machine.link.aclose()
        self._running.clear()

    async def _working_in(self, name: str) -> list[ProcessRef]:
        return (await anyio.to_thread.run_sync(orphans, self._root)).get((self._root / name).resolve(), [])

    async def _report_end(self, sandbox_id: str, machine: Machine) -> None:
        reason = await self._end_of(sandbox_id, machine)
        if self._running.get(sandbox_id) is machine:
            # First, so that nobody starts another in its directory while its things are taken from there.
            with self._warnings.about("dead machine not cleaned up", sandbox=sandbox_id):
                await machine.stop()
        if self._running.get(sandbox_id) is machine:
            del self._running[sandbox_id]
            with self._warnings.about("death not taken note of", sandbox=sandbox_id):
                await self._on_death(sandbox_id, machine.directory.name, reason)

    async def _end_of(self, sandbox_id: str, machine: Machine) -> str:
        """Wait for a machine's end, however often that fails, as where the server has no file descriptor left."""
        while self._running.get(sandbox_id) is machine:
            with self._warnings.about("machine not watched", sandbox=sandbox_id):
                return await machine.ended()
            await anyio.sleep(_WATCH_AGAIN_S)
        return ""


async def _end(processes: Collection[ProcessRef]) -> None:
    for process in processes:
        await process.kill(deadline_s=_ORPHAN_DEADLINE_S)
