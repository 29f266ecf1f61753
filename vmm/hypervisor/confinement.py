"""What keeps a machine's hypervisor to itself on this host: a cgroup, a user of its own, limits, no privileges.

Made once, when the server starts. Whatever the host lacks is done without, and said: never silently.
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
# From statfs(2). What an overlay lies on cannot be known; those of containers and of live systems lie in memory, too.
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x794C7630: "overlay"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How hypervisors are started on this host.

    Attributes:
        cgroups: Where each has a cgroup of its own, or why none has.
        users: Which users they have, or why all run as the server's.
    """

    cgroups: Cgroups | NoCgroups
    users: Users | NoUsers

    @classmethod
    def find(cls, *, kvm: bool) -> Confinement:
        """Look at what this host allows. Changes nothing.

        Args:
            kvm: Whether hypervisors must open /dev/kvm.
        """
        return cls(cgroups=delegation.find(), users=users.find(_KVM if kvm else None))

    @classmethod
    async def open(cls, *, kvm: bool) -> Confinement:
        """Look at what this host allows, and take it into use: the server may move into a cgroup of its own.

        Says in the log what machines must do without.

        Args:
            kvm: Whether hypervisors must open /dev/kvm.
        """
        return await anyio.to_thread.run_sync(lambda: cls.find(kvm=kvm).in_use())

    def in_use(self) -> Confinement:
        """What is left of this when it is taken into use; `open` does it. Blocks for as long as the kernel does."""
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
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> ProcessRef:
        """Start a hypervisor, confined before it can have begun with a guest's work.

        Args:
            argv: The program and its arguments; files below `directory` are named relative to it.
            directory: The machine's own, where the program works.
            log: Where its output goes.
            limits: What it may take of the host.
            control: The control socket, which it finds open as `spawn.CONTROL`; connections are taken at once.
            reads: Files and directories that it only reads.
            writes: Files that it writes to, or opens for writing; made if they are not there.

        Raises:
            Unavailable: It cannot be confined, or not be started.
        """
        return await anyio.to_thread.run_sync(self._spawn, argv, directory, log, limits, control, reads, writes)

    async def adopt(self, process: ProcessRef, directory: Path, limits: Limits) -> None:
        """See to it that a machine that an earlier server started has its limits. What fails is logged."""
        if isinstance(self.cgroups, Cgroups):
            await anyio.to_thread.run_sync(self._adopt, self.cgroups, process, directory, limits)

    async def why_killed(self, directory: Path) -> str:
        """Why the kernel killed a machine for want of memory, in words for its owner; empty if it did not.

        To be asked before `release`.
        """
        if isinstance(self.cgroups, NoCgroups):
            return ""
        return await anyio.to_thread.run_sync(self.cgroups.why_killed, name_of(directory))

    async def release(self, directory: Path) -> None:
        """Give back what an ended machine had of the host. A no-op if that was done. What fails is logged."""
        if isinstance(self.cgroups, Cgroups):
            await anyio.to_thread.run_sync(self._release, self.cgroups, directory)

    async def sweep(self) -> int:
        """Remove what ended machines of earlier servers left; returns how much there was."""
        if isinstance(self.cgroups, NoCgroups):
            return 0
        return await anyio.to_thread.run_sync(self.cgroups.sweep)

    async def make_directory(self, directory: Path) -> None:
        """Make a directory in a machine's own, for its hypervisor to write files to; `reclaim` them afterwards.

        Raises:
            OSError: It is there, or cannot be made.
        """
        if isinstance(self.users, Users):
            await anyio.to_thread.run_sync(self.users.make_directory, directory)
        else:
            await anyio.Path(directory).mkdir(mode=0o700)

    async def reclaim(self, directory: Path) -> None:
        """Make the server's own what a hypervisor wrote into a directory of `make_directory`.

        Raises:
            Unavailable: There is something else than ordinary files, so the hypervisor must not be trusted.
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
        reads: Sequence[Path],
        writes: Sequence[Path],
    ) -> ProcessRef:
        try:
            user = self._user(argv[0], directory, reads, writes)
            with nullcontext() if control is None else listening(control) as listener:
                process = spawn(argv, directory=directory, log=log, control=listener, user=user, processes=limits.pids)
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
            except FileNotFoundError:  # a sweep came by while nothing was in it
                cgroups.make(name, fitting)
                cgroups.put(name, process.pid)
        except ProcessLookupError:
            return  # it has ended, and whoever waits for it will see
        except OSError:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            raise

    def _user(self, program: str, directory: Path, reads: Sequence[Path], writes: Sequence[Path]) -> User | None:
        if isinstance(self.users, NoUsers):
            return None
        hindrance = self.users.hindrance(directory, program, (*reads, *writes))
        if hindrance:
            _log.warning("machine runs as root", machine=directory.name, reason=hindrance)
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
    """The limits, less that on memory where files lie in memory: there, the disk would count, too."""
    answer = ctypes.create_string_buffer(_STATFS_MOST)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(directory), answer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    kind = int.from_bytes(answer.raw[:4], sys.byteorder)
    return replace(limits, memory=0) if kind in _IN_MEMORY else limits


UNCONFINED = Confinement(cgroups=NoCgroups(reason="not asked for", fix=""), users=NoUsers(reason="not asked for"))
"""For tests and tools that start a machine for a moment."""
