"""Process trees: everything that came of one command, to be signalled or killed as a whole.

Where a writable cgroup2 exists (always, in the guest) each command lives in a group of its own, which nothing it starts can
leave. Elsewhere the tree is found by walking /proc, which misses what has cut every tie to its ancestors.
"""

# ruff: noqa: PTH (the paths are relative to descriptors)

from __future__ import annotations

import os
import signal
import time
from typing import Protocol

_ROUNDS = 20


class Tree(Protocol):
    """One command's processes."""

    def join(self) -> None:
        """Put the calling process (the freshly forked child) into this tree."""
        ...

    def signal(self, number: int, leader: int) -> None:
        """Send a signal to every process; SIGKILL reaches those born meanwhile too. `leader` is the command's pid."""
        ...

    def release(self) -> bool:
        """Give the tree's resources back if it is empty. False: it still has processes."""
        ...


class Trees:
    """Makes trees. Reads /proc and cgroups through descriptors, since paths change their meaning with the root.

    Attributes:
        grouped: Whether trees are cgroups.
    """

    def __init__(self, proc: int, group: int | None) -> None:
        self._proc = proc
        self._group = group
        self._count = 0
        self._lingering: list[_Group] = []
        self.grouped = group is not None

    def new(self) -> Tree:
        """An empty tree."""
        if self._group is None:
            return _Walk(self._proc)
        self._lingering = [group for group in self._lingering if not group.release()]
        self._count += 1
        return _Group(self._group, str(self._count))

    def retire(self, tree: Tree) -> None:
        """Release a tree now, or later when the last of its processes has ended."""
        if not tree.release() and isinstance(tree, _Group):
            self._lingering.append(tree)


def open_group(candidates: tuple[str, ...], name: str) -> tuple[str, int] | None:
    """The fresh cgroup2 `name` under the first candidate that can hold one: its path and a descriptor; or None."""
    for candidate in candidates:
        path = f"{candidate}/{name}"
        try:
            os.stat(f"{candidate}/cgroup.procs")
            os.mkdir(path)
        except OSError:
            continue  # Not a cgroup2, or not ours to change.
        try:
            os.stat(f"{path}/cgroup.kill")
        except OSError:
            os.rmdir(path)
            continue  # A kernel before 5.14.
        return path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    return None


def remove_group(path: str, deadline: float) -> None:
    """Remove a cgroup and those in it once their last processes have ended, or give up at the monotonic `deadline`."""
    while True:
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        os.rmdir(entry.path)
            os.rmdir(path)
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        else:
            return


class _Group:
    def __init__(self, parent: int, name: str) -> None:
        self._parent = parent
        self._name = name
        os.mkdir(name, dir_fd=parent)
        self._procs: int | None = os.open(f"{name}/cgroup.procs", os.O_RDWR, dir_fd=parent)

    def join(self) -> None:
        if self._procs is not None:
            os.write(self._procs, b"0")

    def signal(self, number: int, leader: int) -> None:
        del leader
        if number == signal.SIGKILL:
            self._write("cgroup.kill", b"1")
            return
        for pid in self._members(self._name):
            _send(pid, number)

    def release(self) -> bool:
        if self._procs is not None:
            os.close(self._procs)
            self._procs = None
        try:
            os.rmdir(self._name, dir_fd=self._parent)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _write(self, file: str, data: bytes) -> None:
        try:
            descriptor = os.open(f"{self._name}/{file}", os.O_WRONLY, dir_fd=self._parent)
        except FileNotFoundError:
            return  # Released: there is nobody left.
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def _members(self, name: str) -> list[int]:
        try:
            directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._parent)
        except FileNotFoundError:
            return []
        try:
            pids = [int(line) for line in _read(directory, "cgroup.procs").split()]
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
        seen = {leader}
        for _ in range(_ROUNDS):
            members = self._members(seen, leader)
            fresh = members - seen
            # Stopped first, so that none can have children that this round does not see.
            for pid in members:
                _send(pid, signal.SIGSTOP)
            seen |= members
            if not fresh:
                break
        for pid in seen if leader in members else seen - {leader}:
            _send(pid, signal.SIGKILL)

    def release(self) -> bool:
        return True

    def _members(self, known: set[int], session: int) -> set[int]:
        """What lives of the session, of the known processes and of all their descendants."""
        parents: dict[int, int] = {}
        found: set[int] = set()
        with os.scandir(self._proc) as entries:
            names = [entry.name for entry in entries if entry.name.isdigit()]
        for name in names:
            fields = _read(self._proc, f"{name}/stat").rpartition(b")")[2].split()
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


def _read(directory: int, name: str) -> bytes:
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    except OSError:
        return b""
    try:
        data = b""
        while piece := os.read(descriptor, 65536):
            data += piece
        return data
    except OSError:
        return b""  # The process ended between opening and reading.
    finally:
        os.close(descriptor)
