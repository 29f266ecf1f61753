"""Confines hypervisors on this host: each has its own cgroup and user, limits, and no privileges.

Set up once, when the server starts; logs what the host does not support, and works without it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import structlog

from ..disk.os_errors import EXHAUSTED, translate_os_error
from ..errors import Unavailable
from . import cgroup, delegation, users
from .cgroup import Cgroups, Limits, NoCgroups, name_of
from .process import ProcessRef
from .spawn import spawn
from .unix_socket import listening
from .users import NoUsers, User, Users

_log = structlog.get_logger(__name__)

_KVM = Path("/dev/kvm")
_STATFS_MOST = 512
# From statfs(2). An overlay hides what it consists of; in containers and live systems that may be memory too.
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x794C7630: "overlay"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How hypervisors are started on this host.

    Attributes:
        cgroups: The cgroups of the machines, or why there are none.
        users: The users of the machines, or why all run as the server's user.
    """

    cgroups: Cgroups | NoCgroups
    users: Users | NoUsers

    @classmethod
    def find(cls, *, kvm: bool) -> Confinement:
        """Find out what this host supports. Changes nothing.

        Args:
            kvm: Whether hypervisors must open /dev/kvm.
        """
        return cls(cgroups=delegation.find(), users=users.find(_KVM if kvm else None))

    @classmethod
    async def open(cls, *, kvm: bool) -> Confinement:
        """Find out what this host supports, and use it: may move the server into its own cgroup.

        Logs what is missing.

        Args:
            kvm: Whether hypervisors must open /dev/kvm.
        """
        return await anyio.to_thread.run_sync(lambda: cls.find(kvm=kvm).in_use())

    def in_use(self) -> Confinement:
        """Set this up, and return what works; `open` calls it. Blocks on the kernel."""
        used = self
        if isinstance(self.cgroups, Cgroups):
            try:
                self.cgroups.open()
            except OSError as error:
                reason = f"{self.cgroups.base} cannot be divided: {error.strerror}"
                used = replace(self, cgroups=NoCgroups(reason=reason, fix=cgroup.AS_SERVICE))
        if isinstance(used.cgroups, NoCgroups):
            _log.warning("machines have no cgroups", reason=used.cgroups.reason, fix=used.cgroups.fix)
        if isinstance(used.users, NoUsers):
            _log.info("machines have no users of their own", reason=used.users.reason, fix=used.users.fix)
        return used

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        directory: Path,
        log: Path,
        limits: Limits,
        control: Path | None = None,
        tap: int | None = None,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> ProcessRef:
        """Start a hypervisor, confined before it can run a guest.

        Args:
            argv: The program and its arguments; files below `directory` are named relative to it.
            directory: The machine's directory, in which the program works.
            log: The file for its output.
            limits: What it may use of the host.
            control: The control socket, passed to it as `spawn.CONTROL`; clients can connect at once.
            tap: The descriptor of its tap, which it gets under the same number.
            reads: Files and directories that it only reads.
            writes: Files that it writes to, or opens for writing; created if they do not exist.

        Raises:
            Unavailable: It cannot be confined or started.
        """
        return await anyio.to_thread.run_sync(self._spawn, argv, directory, log, limits, control, tap, reads, writes)

    async def adopt(self, process: ProcessRef, directory: Path, limits: Limits) -> None:
        """Set the limits of a machine that an earlier server started. Logs failures."""
        if isinstance(self.cgroups, Cgroups):
            await anyio.to_thread.run_sync(self._adopt, self.cgroups, process, directory, limits)

    async def why_killed(self, directory: Path) -> str:
        """Explain to the owner that the kernel killed a machine for lack of memory; empty if it did not.

        Call it before `release`.
        """
        if isinstance(self.cgroups, NoCgroups):
            return ""
        return await anyio.to_thread.run_sync(self.cgroups.why_killed, name_of(directory))

    async def release(self, directory: Path) -> None:
        """Free an ended machine's resources on the host. A no-op the second time. Logs failures."""
        if isinstance(self.cgroups, Cgroups):
            await anyio.to_thread.run_sync(self._release, self.cgroups, directory)

    async def sweep(self) -> int:
        """Remove the cgroups that ended machines of earlier servers left, and count them."""
        if isinstance(self.cgroups, NoCgroups):
            return 0
        return await anyio.to_thread.run_sync(self.cgroups.sweep)

    async def lend(self, file: Path, *, writable: bool) -> None:
        """Let a machine that runs open a file that was linked into its directory.

        Raises:
            OSError: The file system has no owners.
        """
        if isinstance(self.users, Users):
            await anyio.to_thread.run_sync(lambda: Users.lend(file, writable=writable))

    async def make_directory(self, directory: Path) -> None:
        """Make a directory in a machine's directory for files that its hypervisor writes; `reclaim` it afterwards.

        Raises:
            OSError: It exists, or cannot be made.
        """
        if isinstance(self.users, Users):
            await anyio.to_thread.run_sync(self.users.make_directory, directory)
        else:
            await anyio.Path(directory).mkdir(mode=0o700)

    async def reclaim(self, directory: Path) -> None:
        """Make the server the owner of what a hypervisor wrote into a directory of `make_directory`.

        Raises:
            Unavailable: It contains something other than ordinary files, so the hypervisor may be compromised.
        """
        if isinstance(self.users, Users):
            await anyio.to_thread.run_sync(users.reclaim, directory)

    def _spawn(
        self,
        argv: Sequence[str],
        directory: Path,
        log: Path,
        limits: Limits,
        control: Path | None,
        tap: int | None,
        reads: Sequence[Path],
        writes: Sequence[Path],
    ) -> ProcessRef:
        try:
            user = self._user(argv[0], directory, reads, writes)
            with nullcontext() if control is None else listening(control) as listener:
                process = spawn(
                    argv,
                    directory=directory,
                    log=log,
                    control=listener,
                    user=user,
                    processes=limits.pids,
                    tap=tap,
                )
            if isinstance(self.cgroups, Cgroups):
                self._enclose(self.cgroups, directory, limits, process)
        except OSError as error:
            if isinstance(self.cgroups, Cgroups):
                self._release(self.cgroups, directory)
            if error.errno in EXHAUSTED:
                raise translate_os_error(error, "the hypervisor", directory) from error
            raise Unavailable(f"The hypervisor cannot be started: {error}", hint="Run casemate doctor") from error
        return process

    @staticmethod
    def _enclose(cgroups: Cgroups, directory: Path, limits: Limits, process: ProcessRef) -> None:
        name = name_of(directory)
        try:
            fitting = _fitting(directory, limits)
            cgroups.make(name, fitting)
            try:
                cgroups.put(name, process.pid)
            except FileNotFoundError:  # a sweep removed it while it was empty
                cgroups.make(name, fitting)
                cgroups.put(name, process.pid)
        except ProcessLookupError:
            return  # it has ended, which its owner will notice
        except OSError:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            raise

    def _user(self, program: str, directory: Path, reads: Sequence[Path], writes: Sequence[Path]) -> User | None:
        if isinstance(self.users, NoUsers):
            return None
        obstacle = self.users.obstacle(directory, program, (*reads, *writes))
        if obstacle:
            _log.warning("machine runs as root", machine=directory.name, reason=obstacle)
            return None
        self.users.give(directory, reads=reads, writes=writes)
        return self.users.of(directory)

    @staticmethod
    def _adopt(cgroups: Cgroups, process: ProcessRef, directory: Path, limits: Limits) -> None:
        try:
            cgroups.make(name_of(directory), _fitting(directory, limits))
            cgroups.put(name_of(directory), process.pid)
        except OSError as error:
            if error.errno != errno.ESRCH:
                _log.warning("machine is not limited", machine=directory.name, reason=error.strerror)

    @staticmethod
    def _release(cgroups: Cgroups, directory: Path) -> None:
        try:
            if not cgroups.remove(name_of(directory)):
                _log.warning("cgroup is not empty", machine=directory.name)
        except OSError as error:
            _log.warning("cgroup not removed", machine=directory.name, reason=error.strerror)


def _fitting(directory: Path, limits: Limits) -> Limits:
    """Return the limits, without that on memory if files are in memory, because the machine's disk would count too."""
    answer = ctypes.create_string_buffer(_STATFS_MOST)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(directory), answer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    kind = int.from_bytes(answer.raw[:4], sys.byteorder)
    return replace(limits, memory=0) if kind in _IN_MEMORY else limits


UNCONFINED = Confinement(cgroups=NoCgroups(reason="not asked for", fix=""), users=NoUsers(reason="not asked for"))
"""For tests and tools that start a machine briefly."""
