"""The machines that run on this host, one per sandbox: adopted after a restart, watched, destroyed."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from ..disk.os_errors import translate_os_errors
from ..hypervisor.base import Hypervisor
from ..hypervisor.process import ProcessRef, orphans
from ..repeated_warnings import RepeatedWarnings
from .companions import Beside, Companions
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
    "or restore a snapshot (restore_snapshot)"
)
"""What to do if a guest does not answer."""


class MachineRegistry:
    """The machines below one directory, by sandbox.

    Args:
        driver: Their hypervisor.
        root: Holds one directory per machine; used by this object alone.
        tasks: Runs the watchers of the machines.
        on_death: Called with the sandbox's id, the machine's name and the reason when a machine ends unexpectedly.
        beside: Run for each sandbox's machine for as long as it is the sandbox's, then cancelled; by what is logged if
            they fail.
    """

    def __init__(
        self,
        driver: Hypervisor,
        root: Path,
        tasks: TaskGroup,
        on_death: Callable[[str, str, str], Awaitable[None]],
        beside: Mapping[str, Beside] | None = None,
    ) -> None:
        self._driver = driver
        self._root = root
        self._tasks = tasks
        self._on_death = on_death
        self._companions = Companions(beside or {}, tasks)
        self._running: dict[str, Machine] = {}
        self._stalled: dict[str, str] = {}
        self._warnings = RepeatedWarnings()

    def __len__(self) -> int:
        return len(self._running)

    def get(self, sandbox_id: str) -> Machine | None:
        """Return the sandbox's running machine, if it has one."""
        return self._running.get(sandbox_id)

    def sandboxes(self) -> list[str]:
        """List the ids of the sandboxes whose machines run."""
        return list(self._running)

    def directory(self, name: str) -> Path:
        """Return the directory of the machine with this name, 24 hex digits."""
        return self._root / name

    def attach(self, sandbox_id: str, machine: Machine) -> None:
        """Make a machine the sandbox's, and watch it. The caller handles the machine that it had before."""
        self._let_go(sandbox_id)
        self._running[sandbox_id] = machine
        self._tasks.start_soon(self._report_end, sandbox_id, machine)
        self._companions.begin(sandbox_id, machine)

    async def networked(self, sandbox_id: str) -> None:
        """Wait until the policy of a sandbox whose machine was attached is in force, at most some seconds."""
        await self._companions.in_force(sandbox_id)

    def detach(self, sandbox_id: str) -> Machine | None:
        """Give up a sandbox's machine, whose end no longer counts as a death; None if none runs."""
        return self._let_go(sandbox_id)

    async def adopt(self, sandbox_id: str, name: str) -> Machine | None:
        """Adopt a sandbox's machine from an earlier server; None if it no longer runs.

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
        """End the processes that still work in a machine's directory but belong to no known machine.

        Raises:
            Unavailable: The kernel did not end a process in time, or the host refuses it; call again.
        """
        with translate_os_errors("stopping a machine's processes", self._root / name):
            await _end(await self._working_in(name))

    async def has_process(self, name: str) -> bool:
        """Tell whether any process works in a machine's directory."""
        return bool(await self._working_in(name))

    async def sweep(self, *, running: Collection[str], kept: Collection[str]) -> int:
        """Remove orphans: processes of machines that should not run, directories of unknown machines.

        Leaves everything whose name is not that of a machine. Logs what cannot be removed, and leaves it.

        Args:
            running: Machines whose processes stay.
            kept: Machines whose directories stay, including those that run.

        Returns:
            How many processes and directories were orphans.

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
            # A process below a machine's directory belonged to a save of an earlier server.
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

    async def sweep_networks(self) -> None:
        """Forget what the host's network knows of machines that ended while no server was there.

        To be called once those that run were adopted.

        Raises:
            Unavailable: The host refuses.
        """
        if self._driver.nics is not None:
            await self._driver.nics.sweep()

    async def gone(self, sandbox_id: str, machine: Machine) -> bool:
        """Tell whether a machine whose connection broke has ended; its process dies a moment after its sockets."""
        with anyio.move_on_after(_DYING_S):
            while self._running.get(sandbox_id) is machine:
                await anyio.sleep(_DYING_POLL_S)
        return self._running.get(sandbox_id) is not machine

    async def problem(self, sandbox_id: str) -> str:
        """Explain why a sandbox's machine is paused; empty if it runs. `resume_stalled` resumes it later.

        A hypervisor that does not answer within a second counts as running: it may be stuck itself.
        """
        machine = self._running.get(sandbox_id)
        problem = ""
        if machine is not None:
            with anyio.move_on_after(_PROBLEM_S):
                problem = await machine.driver.problem(machine.running)
        if problem:
            self._stalled[sandbox_id] = problem
        return problem

    def why_unresponsive(self, sandbox_id: str) -> str:
        """Explain to a sandbox's owner why its guest does not answer; empty if it does, as far as is known."""
        machine = self._running.get(sandbox_id)
        if machine is None or not machine.link.silent_s:
            return ""
        if problem := self._stalled.get(sandbox_id):
            return f"its machine is paused: {problem}; it goes on by itself once the host has enough disk space again"
        silent_s = math.ceil(machine.link.silent_s)
        return f"its guest has not answered for {silent_s} s; if it does not recover, {RESTART}"

    async def ask_silent(self) -> None:
        """Ping guests that do not answer once more, and find out why their machines are paused."""
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
        """Resume machines that were paused because the host lacked something."""
        for sandbox_id in list(self._stalled):
            machine = self._running.get(sandbox_id)
            with self._warnings.about("machine not resumed", sandbox=sandbox_id):
                if machine is not None:
                    await machine.driver.resume(machine.running)
                self._stalled.pop(sandbox_id, None)

    async def aclose(self) -> None:
        """Let go of all machines, which keep running."""
        for machine in self._running.values():
            await machine.link.aclose()
        for sandbox_id in list(self._running):
            self._let_go(sandbox_id)

    def _let_go(self, sandbox_id: str) -> Machine | None:
        self._stalled.pop(sandbox_id, None)
        self._companions.end(sandbox_id)
        return self._running.pop(sandbox_id, None)

    async def _working_in(self, name: str) -> list[ProcessRef]:
        return (await anyio.to_thread.run_sync(orphans, self._root)).get((self._root / name).resolve(), [])

    async def _report_end(self, sandbox_id: str, machine: Machine) -> None:
        reason = await self._wait_for_end(sandbox_id, machine)
        if self._running.get(sandbox_id) is machine:
            # Clean up first, so that nobody starts another machine in its directory in the meantime.
            with self._warnings.about("dead machine not cleaned up", sandbox=sandbox_id):
                await machine.stop()
        if self._running.get(sandbox_id) is machine:
            self._let_go(sandbox_id)
            with self._warnings.about("death not recorded", sandbox=sandbox_id):
                await self._on_death(sandbox_id, machine.directory.name, reason)

    async def _wait_for_end(self, sandbox_id: str, machine: Machine) -> str:
        """Wait until a machine ends; retry if that fails, for example for lack of file descriptors."""
        while self._running.get(sandbox_id) is machine:
            with self._warnings.about("machine not watched", sandbox=sandbox_id):
                return await machine.ended()
            await anyio.sleep(_WATCH_AGAIN_S)
        return ""


async def _end(processes: Collection[ProcessRef]) -> None:
    for process in processes:
        await process.kill(deadline_s=_ORPHAN_DEADLINE_S)
