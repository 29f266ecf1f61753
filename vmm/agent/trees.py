"""Process trees: a command and all its descendants, to be signalled or killed as a whole.

If there is a writable cgroup2 (always, in the guest), each command runs in its own cgroup, which its descendants cannot
leave. Otherwise the tree is found by walking /proc, which misses daemons that left both their session and their parent.
"""

from __future__ import annotations

import signal
from typing import Protocol

from .cgroups import Groups, Lease, send
from .procfs import processes, read

_MAX_ROUNDS = 20


class Tree(Protocol):
    """The processes of one command."""

    @property
    def name(self) -> str:
        """Return the name of its cgroup; empty if it has none."""
        ...

    def join(self) -> None:
        """Move the calling process into this tree."""
        ...

    def signal(self, number: int, leader: int) -> None:
        """Send a signal to every process; SIGKILL reaches new forks too. `leader` is the command's pid."""
        ...


class Trees:
    """Creates trees. Reads /proc and cgroups through descriptors, since the root changes after they are opened.

    Args:
        proc: A descriptor of /proc.
        groups: The cgroups of the commands; None if there is no writable cgroup2.
    """

    def __init__(self, proc: int, groups: Groups | None) -> None:
        self._proc = proc
        self._groups = groups

    def new(self) -> Tree:
        """Create an empty tree."""
        return _WalkedTree(self._proc) if self._groups is None else self._groups.take()

    def retire(self, tree: Tree) -> None:
        """Give a tree back; processes that still run in it keep running."""
        if isinstance(tree, Lease) and self._groups is not None:
            self._groups.give(tree)

    def freeze(self) -> None:
        """Stop all commands where they are, if there are cgroups."""
        if self._groups is not None:
            self._groups.freeze()

    def thaw(self) -> None:
        """Let all commands go on."""
        if self._groups is not None:
            self._groups.thaw()

    def return_home(self) -> None:
        """Move the agent back into its own cgroup, after it joined a tree so that its child inherits it."""
        if self._groups is not None:
            self._groups.return_home()


class _WalkedTree:
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
        for _ in range(_MAX_ROUNDS):
            fresh = self._members(seen | {leader}, leader) - seen
            if not fresh:
                break
            # Stop them first, so that none can fork children that no round sees.
            for pid in fresh:
                send(pid, signal.SIGSTOP)
            seen |= fresh
        for pid in seen:
            send(pid, signal.SIGKILL)

    def _members(self, known: set[int], session: int) -> set[int]:
        """Return the living processes of the session, the known processes and all their descendants."""
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
