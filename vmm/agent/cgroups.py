"""The cgroups of one agent: its own, and one for each command in a group of all commands.

casemate-1a2b3c4d/
    agent/          the agent, whose share of the processors and memory nobody else can take
    sandbox/        what its programs see as the root of all cgroups
        1/ 2/ ...   a command each, with whatever it starts; used again once they are empty
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time
from typing import Self

from .procfs import read

_SPARE = 8
_EMPTY = b"populated 0\nfrozen 0\n"
_CONTROLLERS = (b"+cpu", b"+memory", b"+pids")
_MOST_WEIGHT = b"10000"
_MIB = 1024 * 1024
_RESERVE = 24 * _MIB
"""Bytes for the agent and the kernel that commands cannot have, beyond what is in use when the agent starts."""
_LEAST_MEMORY = 32 * _MIB
_PIDS_PER_MIB = 2
_LEAST_PIDS = 512
_MOST_PIDS = 16384


class Groups:
    """Makes, lends and removes them."""

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
        self._given: list[_Group] = []
        self._pids = b""
        self.return_home()

    @classmethod
    def open(cls, candidates: tuple[str, ...], name: str) -> Self | None:
        """Make the group `name` under the first candidate that can hold one, and move there; None if there is none."""
        for candidate in candidates:
            path = f"{candidate}/{name}"
            try:
                os.stat(f"{candidate}/cgroup.procs")
                os.mkdir(path)
            except OSError:
                continue  # Not a cgroup2, or not ours to change.
            try:
                os.stat(f"{path}/cgroup.kill")  # Kernels have it from 5.14 on.
                return cls(path)
            except OSError:
                os.rmdir(path)
        return None

    def keep_reserves(self, available: int) -> None:
        """Keep processors and memory for the agent, whatever commands take; what the kernel lacks is left out.

        Args:
            available: Bytes of memory that nothing uses now.
        """
        for directory in ("../cgroup.subtree_control", "cgroup.subtree_control", "sandbox/cgroup.subtree_control"):
            for controller in _CONTROLLERS:
                self._try_write(directory, controller)
        self._try_write("agent/cpu.weight", _MOST_WEIGHT)
        self._try_write("agent/memory.min", b"%d" % _RESERVE)
        if available - _RESERVE >= _LEAST_MEMORY:
            self._try_write("sandbox/memory.max", b"%d" % (available - _RESERVE))
        self._pids = b"%d" % min(max(available // _MIB * _PIDS_PER_MIB, _LEAST_PIDS), _MOST_PIDS)

    def take(self) -> Lease:
        """An empty group; whoever had it before has lost it."""
        with self._lock:
            for index in range(len(self._given) - 1, -1, -1):
                if self._given[index].empty():
                    group = self._given.pop(index)
                    break
            else:
                group = self._new()
            group.lease = Lease(group, self._lock)
            return group.lease

    def give(self, lease: Lease) -> None:
        """Take a group back; it is lent again once the last of its processes has ended."""
        with self._lock:
            self._given.append(lease.group)
            if len(self._given) > _SPARE:
                surplus = [group for group in self._given if group.empty()][:-_SPARE]
                self._given = [group for group in self._given if group not in surplus or not group.remove()]

    def join_sandbox(self) -> None:
        """Move the agent into the group of all commands, while that has no groups yet."""
        descriptor = os.open("cgroup.procs", os.O_WRONLY, dir_fd=self._sandbox)
        os.write(descriptor, b"0")
        os.close(descriptor)

    def return_home(self) -> None:
        """Move the agent to its own group."""
        os.write(self._home, b"0")

    def remove(self, deadline: float) -> None:
        """Move out and remove everything once it is empty, or give up at the monotonic `deadline`."""
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
            # A name that somebody in the sandbox has made a group of already is not ours.
            with contextlib.suppress(FileExistsError):
                return _Group(self._sandbox, str(self._count), self._pids)

    def _try_write(self, name: str, value: bytes) -> None:
        with contextlib.suppress(OSError):
            write(self._directory, name, value)


class Lease:
    """A group in the hands of one command, for as long as something of it lives."""

    def __init__(self, group: _Group, lock: _thread.LockType) -> None:
        self.group = group
        self._lock = lock

    @property
    def name(self) -> str:
        """The group's name among those of the commands."""
        return self.group.name

    def join(self) -> None:
        """Put the calling process into the group."""
        self.group.join()

    def signal(self, number: int, leader: int) -> None:
        """Send a signal to every process in the group, unless it is somebody else's by now."""
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
        """Whether nothing lives in it or below, and nobody has frozen or removed it."""
        try:
            return os.pread(self._events, 100, 0) == _EMPTY
        except OSError:
            return False

    def remove(self) -> bool:
        """Remove it. False: somebody made groups in it."""
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
    """Send a signal to a process that may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def write(directory: int, name: str, value: bytes) -> None:
    """Write into a file below an open directory.

    Raises:
        OSError: There is none, or it does not take the value.
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
