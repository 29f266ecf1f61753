"""The cgroups of one agent: its own, and one for each command below a group of all commands.

casemate-1a2b3c4d/
    agent/          the agent, with processors and memory reserved for it
    sandbox/        the root of the cgroup tree as the sandbox's programs see it
        1/ 2/ ...   one command each, with all its descendants; reused once they are empty
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time
from typing import Self

from .procfs import read

_MAX_SPARE = 8
_EMPTY = b"populated 0\nfrozen 0\n"
_CONTROLLERS = (b"+cpu", b"+memory", b"+pids")
_MAX_WEIGHT = b"10000"
_MIB = 1024 * 1024
_RESERVE = 24 * _MIB
"""Bytes reserved for the agent and the kernel, beyond what is in use when the agent starts."""
_MIN_MEMORY = 32 * _MIB
_PIDS_PER_MIB = 2
_FREEZE_S = 2.0
_MIN_PIDS = 512
_MAX_PIDS = 16384


class Groups:
    """Creates, leases and removes the cgroups."""

    def __init__(self, path: str) -> None:
        self._name = os.path.basename(path)
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for name in ("agent", "sandbox"):
            os.mkdir(name, dir_fd=self._directory)
        self._home = os.open("agent/cgroup.procs", os.O_WRONLY, dir_fd=self._directory)
        self._outside = os.open("../cgroup.procs", os.O_WRONLY, dir_fd=self._directory)
        self._sandbox = os.open("sandbox", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._directory)
        self._lock = _thread.allocate_lock()
        self._count = 0
        self._returned: list[_Group] = []
        self._pids = b""
        self.return_home()

    @classmethod
    def open(cls, candidates: tuple[str, ...], name: str) -> Self | None:
        """Create the group `name` below the first usable candidate and move the agent there; None if there is none."""
        for candidate in candidates:
            path = f"{candidate}/{name}"
            try:
                os.stat(f"{candidate}/cgroup.procs")
                os.mkdir(path)
            except OSError:
                continue  # Not a cgroup2, or not writable.
            try:
                os.stat(f"{path}/cgroup.kill")  # Exists since Linux 5.14.
                return cls(path)
            except OSError:
                os.rmdir(path)
        return None

    def keep_reserves(self, available: int) -> None:
        """Reserve processors and memory for the agent, and limit commands, as far as the kernel supports it.

        Args:
            available: Bytes of memory that are available now.
        """
        for directory in ("../cgroup.subtree_control", "cgroup.subtree_control", "sandbox/cgroup.subtree_control"):
            for controller in _CONTROLLERS:
                self._try_write(directory, controller)
        self._try_write("agent/cpu.weight", _MAX_WEIGHT)
        self._try_write("agent/memory.min", b"%d" % _RESERVE)
        if available - _RESERVE >= _MIN_MEMORY:
            self._try_write("sandbox/memory.max", b"%d" % (available - _RESERVE))
        self._pids = b"%d" % min(max(available // _MIB * _PIDS_PER_MIB, _MIN_PIDS), _MAX_PIDS)

    def take(self) -> Lease:
        """Lease an empty group; a previous lease of it becomes invalid."""
        with self._lock:
            for index in range(len(self._returned) - 1, -1, -1):
                if self._returned[index].empty():
                    group = self._returned.pop(index)
                    break
            else:
                group = self._new()
            group.lease = Lease(group, self._lock)
            return group.lease

    def give(self, lease: Lease) -> None:
        """Take a group back, to lease it again once its last process has ended."""
        with self._lock:
            self._returned.append(lease.group)
            if len(self._returned) > _MAX_SPARE:
                surplus = [group for group in self._returned if group.empty()][:-_MAX_SPARE]
                self._returned = [group for group in self._returned if group not in surplus or not group.remove()]

    def join_sandbox(self) -> None:
        """Move the agent into the group of all commands, which must have no child groups yet."""
        descriptor = os.open("cgroup.procs", os.O_WRONLY, dir_fd=self._sandbox)
        os.write(descriptor, b"0")
        os.close(descriptor)

    def return_home(self) -> None:
        """Move the agent to its own group."""
        os.write(self._home, b"0")

    def freeze(self) -> None:
        """Stop all commands where they are, and wait until they stand still, for two seconds at most."""
        write(self._sandbox, "cgroup.freeze", b"1")
        deadline = time.monotonic() + _FREEZE_S
        while b"frozen 1" not in read(self._sandbox, "cgroup.events") and time.monotonic() < deadline:
            time.sleep(0.002)

    def thaw(self) -> None:
        """Let all commands go on."""
        write(self._sandbox, "cgroup.freeze", b"0")

    def remove(self, deadline: float) -> None:
        """Move the agent out and remove its groups once they are empty; give up at the monotonic `deadline`."""
        os.write(self._outside, b"0")
        while True:
            try:
                _remove_below(self._directory)
                os.rmdir(f"../{self._name}", dir_fd=self._directory)
            except OSError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            else:
                return

    def _new(self) -> _Group:
        while True:
            self._count += 1
            # A program in the sandbox may have created a group of this name; such a group must not be used.
            with contextlib.suppress(FileExistsError):
                return _Group(self._sandbox, str(self._count), self._pids)

    def _try_write(self, name: str, value: bytes) -> None:
        with contextlib.suppress(OSError):
            write(self._directory, name, value)


class Lease:
    """One command's use of a group, valid until the group is leased again."""

    def __init__(self, group: _Group, lock: _thread.LockType) -> None:
        self.group = group
        self._lock = lock

    @property
    def name(self) -> str:
        """The group's name below `sandbox/`."""
        return self.group.name

    def join(self) -> None:
        """Move the calling process into the group."""
        self.group.join()

    def signal(self, number: int, leader: int) -> None:
        """Send a signal to every process in the group, unless another command leases the group by now."""
        del leader
        with self._lock:
            if self.group.lease is self:
                self.group.signal(number)


class _Group:
    lease: Lease | None = None

    def __init__(self, parent: int, name: str, pids: bytes) -> None:
        os.mkdir(name, dir_fd=parent)
        self.name = name
        self._parent = parent
        self._procs = os.open(f"{name}/cgroup.procs", os.O_WRONLY, dir_fd=parent)
        self._events = os.open(f"{name}/cgroup.events", os.O_RDONLY, dir_fd=parent)
        if pids:
            with contextlib.suppress(OSError):
                write(parent, f"{name}/pids.max", pids)

    def join(self) -> None:
        os.write(self._procs, b"0")

    def empty(self) -> bool:
        """Return whether no process is in the group or below, and nobody has frozen or removed it."""
        try:
            return os.pread(self._events, 100, 0) == _EMPTY
        except OSError:
            return False

    def remove(self) -> bool:
        """Remove the group; return False if it has child groups."""
        try:
            os.rmdir(self.name, dir_fd=self._parent)
        except OSError:
            return False
        self.lease = None
        os.close(self._procs)
        os.close(self._events)
        return True

    def signal(self, number: int) -> None:
        if number != signal.SIGKILL:
            for pid in self._members(self.name):
                send(pid, number)
            return
        write(self._parent, f"{self.name}/cgroup.kill", b"1")

    def _members(self, name: str) -> list[int]:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._parent)
        try:
            pids = [int(line) for line in read(directory, "cgroup.procs").split()]
            with os.scandir(directory) as entries:
                inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        finally:
            os.close(directory)
        for child in inner:
            pids += self._members(f"{name}/{child}")
        return pids


def send(pid: int, number: int) -> None:
    """Send a signal to a process, which may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def write(directory: int, name: str, value: bytes) -> None:
    """Write to a file below an open directory.

    Raises:
        OSError: The file is missing, or the kernel refuses the value.
    """
    descriptor = os.open(name, os.O_WRONLY, dir_fd=directory)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def _remove_below(directory: int) -> None:
    with os.scandir(directory) as entries:
        inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in inner:
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            _remove_below(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)
