"""A hypervisor's process: finds it after a restart of the server, watches it, ends it.

The server never identifies a process by its pid alone: a pid is reused, a pid with its start time is not.
"""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio

_STAT_START_TIME = 19  # field 22 of /proc/PID/stat, counted after the parenthesised name and the state before it


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process, identified by pid and start time.

    Attributes:
        pid: The process id.
        started: Clock ticks between the host's boot and the start of the process.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that has this pid now; None if there is none or only a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat.rpartition(")")[2].split()
        if state in {"Z", "X"}:
            return None
        return cls(pid, int(fields[_STAT_START_TIME - 1]))

    def alive(self) -> bool:
        """Tell whether this process still runs."""
        return ProcessRef.of(self.pid) == self

    def memory(self) -> int:
        """Return its resident memory in bytes, 0 once it has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return pages * resource.getpagesize()

    async def ended(self) -> int | None:
        """Wait until the process has ended; returns at once if it has.

        Returns:
            Its exit status, or minus the number of the signal that ended it; None for a process that an earlier
            server started, whose status only init learns.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        try:
            if self.alive():
                await anyio.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        return self._reap()

    async def kill(self, *, deadline_s: float = 10) -> None:
        """Kill the process, and wait until it has ended; a no-op if it has.

        Raises:
            TimeoutError: The kernel did not end it within the deadline.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():
                return
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            with anyio.fail_after(deadline_s):
                await anyio.wait_readable(pidfd)
        except ProcessLookupError:
            return
        finally:
            os.close(pidfd)
            self._reap()

    def _reap(self) -> int | None:
        try:
            done = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None  # adopted from an earlier server: init reaps it
        if done is None:
            return None
        return done.si_status if done.si_code == os.CLD_EXITED else -done.si_status


def orphans(below: Path) -> dict[Path, list[ProcessRef]]:
    """Find every process that works in a directory below the given one, by that directory.

    This finds machines whose server died before it could record their pid.
    """
    root = below.resolve()
    found: dict[Path, list[ProcessRef]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            directory = Path(str((entry / "cwd").readlink()).removesuffix(" (deleted)"))
        except OSError:  # it has ended, or belongs to another user: not ours
            continue
        if directory.is_relative_to(root) and directory != root:
            process = ProcessRef.of(int(entry.name))
            if process is not None:
                found.setdefault(directory, []).append(process)
    return found
