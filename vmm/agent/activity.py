"""Whether anything goes on in the guest that nobody outside asks for at the moment."""

from __future__ import annotations

from .arguments import Arguments
from .channel import Channel
from .procfs import processes, read
from .terminals import Terminals

_STATE, _PARENT, _FLAGS = 0, 1, 6
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD in the flags of proc(5)'s stat."""
_ENDED = (b"Z", b"X")
_ESTABLISHED, _LISTENS = b"01", b"0A"
_TABLES = ("tcp", "tcp6")


class Activity:
    """Reads /proc once for each answer and starts nothing.

    Args:
        proc: A descriptor of the /proc that the sandbox's programs see.
        own: The process in it that is no program's: the agent, or the sandbox's first.
        terminals: The agent's.
        own_ports: Where the agent itself listens in the sandbox's network.
    """

    def __init__(self, proc: int, own: int, terminals: Terminals, own_ports: frozenset[int]) -> None:
        self._proc = proc
        self._own = own
        self._terminals = terminals
        self._own_ports = own_ports

    def read(self, channel: Channel, arguments: Arguments) -> None:
        """Count what runs, what is open and what is connected."""
        del arguments
        channel.send_result(
            {
                "processes": count_processes(self._proc, self._own),
                "terminals": self._terminals.alive(),
                "connections": count_connections(self._proc, self._own, self._own_ports),
            }
        )


def count_processes(proc: int, own: int) -> int:
    """The living processes besides the kernel's threads, `own` and the ancestors that it was started by."""
    parents: dict[int, int] = {}
    for name in processes(proc):
        fields = read(proc, f"{name}/stat").rpartition(b")")[2].split()
        if len(fields) > _FLAGS and fields[_STATE] not in _ENDED and not int(fields[_FLAGS]) & _KERNEL_THREAD:
            parents[int(name)] = int(fields[_PARENT])
    while own in parents:
        own = parents.pop(own)
    return len(parents)


def count_connections(proc: int, own: int, own_ports: frozenset[int]) -> int:
    """The established TCP connections in a process's network to ports that somebody listens on, except these."""
    listening: set[int] = set()
    connected: list[int] = []
    for table in _TABLES:
        for line in read(proc, f"{own}/net/{table}").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            port = int(local.rpartition(b":")[2], 16)
            if state == _LISTENS:
                listening.add(port)
            elif state == _ESTABLISHED:
                connected.append(port)
    listening -= own_ports
    return sum(port in listening for port in connected)
