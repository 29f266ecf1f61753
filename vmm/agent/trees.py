"""Process trees: everything that came of one command, to be signalled or killed as a whole.

Where a writable cgroup2 exists (always, in the guest) each command lives in a group of its own, which nothing it
starts can leave. Elsewhere the tree is found by walking /proc, which misses what has cut every tie to its ancestors.
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from typing import Protocol, Self

from .procfs import processes, read

_ROUNDS = 20
_SPARE = 8
_EMPTY = b"populated 0\nfrozen 0\n"


class Tree(Protocol):
    """One command's processes."""

    def join(self) -> None:
        """Put the calling process (the freshly forked child) into this tree."""
        ...

    def signal(self, number: int, leader: int) -> None:
        """Send a signal to every process; SIGKILL reaches those born meanwhile too. `leader` is the command's pid."""
        ...


class Trees:
    """Makes trees. Reads /proc and cgroups through descriptors, since paths change their meaning with the root.

    Args:
        proc: A descriptor of /proc.
        groups: Where the trees are cgroups; None where they cannot be.
    """

    def __init__(self, proc: int, groups: Groups | None) -> None:
        self._proc = proc
        self._groups = groups

    def new(self) -> Tree:
        """An empty tree."""
        return _Walk(self._proc) if self._groups is None else self._groups.take()

    def retire(self, tree: Tree) -> None:
        """Give a tree back; what still lives in it goes on living."""
        if isinstance(tree, _Lease) and self._groups is not None:
            self._groups.give(tree)

    def return_home(self) -> None:
        """Put the agent back where it belongs, after it has joined a tree for its children's sake."""
        if self._groups is not None:
            self._groups.return_home()


class Groups:
    """The cgroups of one agent: its own, and below it one for each command. Empty ones are used again."""

    def __init__(self, path: str) -> None:
        self._name = os.path.basename(path)
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._home = os.open("cgroup.procs", os.O_WRONLY, dir_fd=self._directory)
        self._outside = os.open("../cgroup.procs", os.O_WRONLY, dir_fd=self._directory)
        self._lock = _thread.allocate_lock()
        self._count = 0
        self._given: list[_Group] = []
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

    def take(self) -> _Lease:
        """An empty group; whoever had it before has lost it."""
        with self._lock:
            for index in range(len(self._given) - 1, -1, -1):
                if self._given[index].empty():
                    group = self._given.pop(index)
                    break
            else:
                self._count += 1
                group = _Group(self._directory, str(self._count))
            group.lease = _Lease(group, self._lock)
            return group.lease

    def give(self, lease: _Lease) -> None:
        """Take a group back; it is lent again once the last of its processes has ended."""
        with self._lock:
            self._given.append(lease.group)
            if len(self._given) > _SPARE:
                surplus = [group for group in self._given if group.empty()][:-_SPARE]
                self._given = [group for group in self._given if group not in surplus or not group.remove()]

    def return_home(self) -> None:
        """Move the agent to its own group."""
        os.write(self._home, b"0")

    def remove(self, deadline: float) -> None:
        """Move out and remove everything once it is empty, or give up at the monotonic `deadline`."""
        os.write(self._outside, b"0")
        while True:
            try:
                with os.scandir(self._directory) as entries:
                    inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                for name in inner:
                    os.rmdir(name, dir_fd=self._directory)
                os.rmdir(f"../{self._name}", dir_fd=self._directory)
            except OSError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            else:
                return


class _Lease:
    """A group in the hands of one command, for as long as something of it lives."""

    def __init__(self, group: _Group, lock: _thread.LockType) -> None:
        self.group = group
        self._lock = lock

    def join(self) -> None:
        self.group.join()

    def signal(self, number: int, leader: int) -> None:
        del leader
        with self._lock:
            if self.group.lease is self:
                self.group.signal(number)


class _Group:
    lease: _Lease | None = None

    def __init__(self, parent: int, name: str) -> None:
        os.mkdir(name, dir_fd=parent)
        self._parent = parent
        self._name = name
        self._procs = os.open(f"{name}/cgroup.procs", os.O_WRONLY, dir_fd=parent)
        self._events = os.open(f"{name}/cgroup.events", os.O_RDONLY, dir_fd=parent)

    def join(self) -> None:
        os.write(self._procs, b"0")

    def empty(self) -> bool:
        """Whether nothing lives in it or below, and nobody has frozen it."""
        return os.pread(self._events, 100, 0) == _EMPTY

    def remove(self) -> bool:
        """Remove it. False: somebody made groups in it."""
        try:
            os.rmdir(self._name, dir_fd=self._parent)
        except OSError:
            return False
        self.lease = None
        os.close(self._procs)
        os.close(self._events)
        return True

    def signal(self, number: int) -> None:
        if number != signal.SIGKILL:
            for pid in self._members(self._name):
                _send(pid, number)
            return
        kill = os.open(f"{self._name}/cgroup.kill", os.O_WRONLY, dir_fd=self._parent)
        try:
            os.write(kill, b"1")
        finally:
            os.close(kill)

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


class _Walk:
    def __init__(self, proc: int) -> None:
        self._proc = proc

    def join(self) -> None:
        return

    def signal(self, number: int, leader: int) -> None:
        if number != signal.SIGKILL:
            for pid in self._members({leader}, leader):
                _send(pid, number)
            return
        seen: set[int] = set()
        for _ in range(_ROUNDS):
            fresh = self._members(seen | {leader}, leader) - seen
            if not fresh:
                break
            # Stopped first, so that none can have children that no round sees.
            for pid in fresh:
                _send(pid, signal.SIGSTOP)
            seen |= fresh
        for pid in seen:
            _send(pid, signal.SIGKILL)

    def _members(self, known: set[int], session: int) -> set[int]:
        """What lives of the session, of the known processes and of all their descendants."""
        parents: dict[int, int] = {}
        found: set[int] = set()
        for name in processes(self._proc):
            fields = read(self._proc, f"{name}/stat").rpartition(b")")[2].split()
            if len(fields) < 4 or fields[0] == b"Z":
                continue
            pid = int(name)
            parents[pid] = int(fields[1])
            if pid in known or int(fields[3]) == session:
                found.add(pid)
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
            found |= more
            grown = bool(more)
        return found


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # It has ended by itself.
