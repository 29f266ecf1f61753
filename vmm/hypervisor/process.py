"""A hypervisor's process: started in a session of its own so that it outlives the server, found again, watched, ended.

The server never names a process by its pid alone: a pid is reused, a pid with its start time is not.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio

from .users import User

CONTROL = 3
"""The descriptor on which a program finds its control socket."""

_FILES = 2048  # descriptors: a few dozen of the program's own, one or two for each connection to the guest
_FILE_SIZE = 20 * 1024**3  # above the largest disk (10 GiB) and the largest memory (16 GiB)
_STAT_START_TIME = 19  # field 22 of /proc/PID/stat, counted after the parenthesised name and the state before it


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process for ever.

    Attributes:
        pid: The process id.
        started: Clock ticks between the host's boot and the start of the process.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this pid now, or None where there is none or only a zombie is left."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat.rpartition(")")[2].split()
        if state in {"Z", "X"}:
            return None
        return cls(pid, int(fields[_STAT_START_TIME - 1]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessRef.of(self.pid) == self

    def memory(self) -> int:
        """Resident memory in bytes, 0 once it has ended."""
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
        """End the process for certain; a no-op if it has ended.

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


def spawn(
    argv: Sequence[str],
    *,
    directory: Path,
    log: Path,
    control: socket.socket | None = None,
    user: User | None = None,
    processes: int = 0,
) -> ProcessRef:
    """Start a program detached from the server, without privileges it could gain or keep.

    It leads a session of its own, works in `directory` (by which `strays` finds it again), reads nothing, and writes
    to `log`. It cannot gain privileges; started by root it keeps no capability. It leaves no core file behind, in
    which its guest's memory would be.

    Args:
        argv: The program and its arguments.
        directory: Where it works. Entered before the user changes, who need not be able to enter what is above it.
        log: Where its output goes.
        control: A socket that listens; the program has it as `CONTROL`.
        user: Who it runs as; the server's user if None.
        processes: How many processes and threads that user may have; 0 for any number.

    Raises:
        FileNotFoundError: `env` is missing, of coreutils. `prlimit` and `setpriv` of util-linux must be there, too.
    """
    limits = [
        "--core=0:0",
        _most("nofile", resource.RLIMIT_NOFILE, _FILES),
        _most("fsize", resource.RLIMIT_FSIZE, _FILE_SIZE),
    ]
    if user is not None and processes:
        limits.append(_most("nproc", resource.RLIMIT_NPROC, processes))
    shed = ["--no-new-privs", *(["--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else [])]
    if user is not None:
        groups = f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups"
        shed += [f"--reuid={user.uid}", f"--regid={user.uid}", groups]
    launcher = ["env", f"--chdir={directory}", "prlimit", *limits, "setpriv", *shed]
    path = os.environ.get("PATH", os.defpath)
    environment = {"PATH": f"{path}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    passed = [] if control is None else [(os.POSIX_SPAWN_DUP2, control.fileno(), CONTROL)]
    pid = os.posix_spawnp(
        launcher[0],
        [*launcher, *argv],
        environment,
        setsid=True,
        setsigmask=(),
        setsigdef=_RESETTABLE,
        file_actions=[
            *passed,
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    process = ProcessRef.of(pid)
    return process if process is not None else ProcessRef(pid, 0)


def strays(below: Path) -> dict[Path, list[ProcessRef]]:
    """Every process that works in a directory below the given one, by that directory.

    This finds machines whose server died before it could write down their pid.
    """
    root = below.resolve()
    found: dict[Path, list[ProcessRef]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            directory = Path(str((entry / "cwd").readlink()).removesuffix(" (deleted)"))
        except OSError:  # ended meanwhile, or another user's: neither is ours
            continue
        if directory.is_relative_to(root) and directory != root:
            process = ProcessRef.of(int(entry.name))
            if process is not None:
                found.setdefault(directory, []).append(process)
    return found


_RESETTABLE = tuple(s for s in signal.Signals if s not in {signal.SIGKILL, signal.SIGSTOP})


def _most(name: str, limit: int, wanted: int) -> str:
    """An argument of prlimit; what this process may not have cannot be given away."""
    hard = resource.getrlimit(limit)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return f"--{name}={value}:{value}"
