"""Process trees: everything that came of one command, to be signalled or killed as a whole.

Where a writable cgroup2 exists (always, in the guest) each command lives in a group of its own, which nothing it
starts can leave. Elsewhere the tree is found by walking /proc, which misses what has cut every tie to its ancestors.
"""

from __future__ import annotations

import signal
from typing import Protocol

from .cgroups import Groups, Lease, send
from .procfs import processes, read

_ROUNDS = 20


class Tree(Protocol):
    """One command's processes."""

    @property
    def name(self) -> str:
        """Its cgroup among those of the commands; empty where it has none."""
        ...

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
        if isinstance(tree, Lease) and self._groups is not None:
            self._groups.give(tree)

    def return_home(self) -> None:
        """Put the agent back where it belongs, after it has joined a tree for its children's sake."""
        if self._groups is not None:
            self._groups.return_home()


class _Walk:
    name = ""

    def __init__(self, proc: int) -> None:
        self._proc = proc

    def join(self) -> None:
        return

    def signal(self, number: int, leader: int) -> None:
        if number != signal.SIGKILL:
            for pid in self._members({leader}, leader):
                send(pid, number)
            return
        seen: set[int] = set()
        for _ in range(_ROUNDS):
            fresh = self._members(seen | {leader}, leader) - seen
            if not fresh:
                break
            # Stopped first, so that none can have children that no round sees.
            for pid in fresh:
                send(pid, signal.SIGSTOP)
            seen |= fresh
        for pid in seen:
            send(pid, signal.SIGKILL)

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
