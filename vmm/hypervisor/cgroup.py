"""A cgroup for every machine, so that one that uses too many resources harms only itself.

    BASE/          the cgroup that the server may divide: from systemd (Delegate=), or the container's own
      server/      the server: a divided cgroup cannot hold processes itself
      machines/    one cgroup per machine, by the name of the machine's directory

Only cgroup v2. If the server may not divide a cgroup, machines run without one, and `NoCgroups` says why.
Source: Documentation/admin-guide/cgroup-v2.rst of Linux 6.1, and systemd's CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import errno
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

WANTED = ("memory", "cpu", "pids")
AS_SERVICE = "run Casemate as the service in deploy/ (Delegate=yes)"
"""How to get a cgroup that the server may divide."""
SERVER = "server"
"""The child of the divided cgroup that the server runs in."""

_MACHINES = "machines"
_MACHINE = re.compile(r"[0-9a-f]{24}")
_PERIOD_US = 100_000
# The guest's CPUs never use more than their number of host CPUs; the threads of devices come on top.
_DEVICES_US = 50_000
_PIDS = 128
_MOVES = 5
_EMPTYING_S = 2.0
_EMPTYING_POLL_S = 0.002
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one machine's hypervisor may use of the host.

    Attributes:
        memory: Bytes; 0 for no limit.
        cpus: The guest's processors.
    """

    memory: int
    cpus: int

    @classmethod
    def of(cls, *, mem_mib: int, own_mib: int, cpus: int) -> Self:
        """Return the limits of a machine.

        The guest's memory counts twice: a save writes all of it to a file, and the kernel charges those pages to the
        machine until they are on the disk. With less, the save would wait for the disk while the guest is paused.

        Args:
            mem_mib: MiB of the guest.
            own_mib: MiB for the program itself.
            cpus: The guest's processors.
        """
        return cls(memory=(2 * mem_mib + own_mib) * _MIB, cpus=cpus)

    @property
    def pids(self) -> int:
        """Processes and threads."""
        return _PIDS + self.cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCgroups:
    """Why machines on this host have no cgroups of their own, and how to change that."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """The cgroups of machines below one that the server may divide.

    Attributes:
        base: The cgroup to divide.
        controllers: The controllers of `WANTED` that can be used there.
    """

    base: Path
    controllers: tuple[str, ...]

    def open(self) -> None:
        """Divide the base: move the server into a child cgroup, and make another for the machines. May be repeated.

        Raises:
            OSError: The kernel refuses.
        """
        if not is_top(self.base):
            self._vacate()
        switch_on = " ".join(f"+{controller}" for controller in self.controllers)
        (self.base / "cgroup.subtree_control").write_text(switch_on)
        self._machines.mkdir(exist_ok=True)
        (self._machines / "cgroup.subtree_control").write_text(switch_on)

    def make(self, name: str, limits: Limits) -> None:
        """Make a machine's cgroup, or set the limits of an existing one.

        Raises:
            OSError: The kernel refuses.
        """
        place = self._machines / name
        place.mkdir(exist_ok=True)
        if "memory" in self.controllers:
            most = str(limits.memory or "max")
            (place / "memory.max").write_text(most)
            (place / "memory.oom.group").write_text("1")
            swap = place / "memory.swap.max"
            if swap.exists():  # not in kernels without swap
                swap.write_text(most)
        if "cpu" in self.controllers:
            (place / "cpu.max").write_text(f"{limits.cpus * _PERIOD_US + _DEVICES_US} {_PERIOD_US}")
        if "pids" in self.controllers:
            (place / "pids.max").write_text(str(limits.pids))

    def put(self, name: str, pid: int) -> None:
        """Move a process into a machine's cgroup; a no-op if it is there.

        The kernel takes about 10 ms for it (an RCU grace period), while the process keeps running.

        Raises:
            OSError: The kernel refuses; ESRCH if the process has ended.
        """
        if pid not in processes(self._machines / name):
            (self._machines / name / "cgroup.procs").write_text(str(pid))

    def why_killed(self, name: str) -> str:
        """Explain to the owner that the kernel killed a machine for lack of memory; empty if it did not."""
        try:
            lines = (self._machines / name / "memory.events").read_text().splitlines()
            limit = (self._machines / name / "memory.max").read_text().strip()
        except OSError:
            return ""
        events = {event: int(count) for event, count in (line.split() for line in lines)}
        if not events.get("oom_kill"):
            return ""
        if events.get("oom") and limit.isdecimal():
            mib = int(limit) // _MIB
            return f"its virtual machine needed more memory on the host than its limit of {mib} MiB"
        return "the host ran out of memory and ended its virtual machine"

    def remove(self, name: str) -> bool:
        """Remove the cgroup of an ended machine, and kill what is left in it; False if that fails.

        Blocks for up to two seconds if something in it does not die.
        """
        place = self._machines / name
        until = time.monotonic() + _EMPTYING_S
        while not _removed(place):
            if time.monotonic() > until:
                return False
            _kill_all(place)
            time.sleep(_EMPTYING_POLL_S)
        return True

    def sweep(self) -> int:
        """Remove all cgroups of machines in which nothing runs, and count them."""
        try:
            places = [place for place in self._machines.iterdir() if place.is_dir()]
        except FileNotFoundError:
            return 0
        return sum(_removed(place) for place in places)

    @property
    def _machines(self) -> Path:
        return self.base / _MACHINES

    def _vacate(self) -> None:
        server = self.base / SERVER
        server.mkdir(exist_ok=True)
        for _ in range(_MOVES):
            left = processes(self.base)
            if not left:
                return
            for pid in left:
                try:
                    (server / "cgroup.procs").write_text(str(pid))
                except ProcessLookupError:
                    continue  # it has ended


def name_of(directory: Path) -> str:
    """Return the machine's name, unique on this host, from its directory: the machine's id, if it has one."""
    return directory.name if _MACHINE.fullmatch(directory.name) else f"{directory.parent.name}-{directory.name}"


def is_top(base: Path) -> bool:
    """Tell whether this is the kernel's root cgroup, which has no type and may be divided with processes in it."""
    return not (base / "cgroup.type").exists()


def processes(cgroup: Path) -> set[int]:
    """List the processes in a cgroup, without those in its children; none if it does not exist."""
    return {int(pid) for pid in words(cgroup / "cgroup.procs")}


def words(file: Path) -> list[str]:
    """Read the words in a file of a cgroup; none if it does not exist."""
    try:
        return file.read_text().split()
    except OSError:  # the controller, or the cgroup, does not exist
        return []


def _removed(place: Path) -> bool:
    try:
        place.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
            raise
        return False
    return True


def _kill_all(place: Path) -> None:
    try:
        (place / "cgroup.kill").write_text("1")
    except OSError:  # before Linux 5.14, or it is gone
        return
