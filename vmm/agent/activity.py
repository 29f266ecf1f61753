"""Activity in the guest that no request from outside causes: processes, terminals and connections."""

from __future__ import annotations

from .arguments import Arguments
from .channel import Channel
from .procfs import processes, read
from .sessions import Sessions
from .terminals import Terminals

_STATE, _PARENT, _FLAGS = 0, 1, 6
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD, a flag in /proc/PID/stat, see proc(5)."""
_ENDED = (b"Z", b"X")
_ESTABLISHED, _LISTEN = b"01", b"0A"
_TABLES = ("tcp", "tcp6")


class Activity:
    """Counts activity by reading /proc once per request, without starting anything.

    Args:
        proc: A descriptor of the /proc that the sandbox's programs see.
        own: The pid in it that is not a program's: the agent, or the sandbox's first process.
        terminals: The agent's terminals.
        sessions: The agent's sessions, whose shells do not count while they wait for a command.
        own_ports: The ports on which the agent itself listens in the sandbox's network.
    """

    def __init__(
        self, proc: int, own: int, terminals: Terminals, sessions: Sessions, own_ports: frozenset[int]
    ) -> None:
        self._proc = proc
        self._own = own
        self._terminals = terminals
        self._sessions = sessions
        self._own_ports = own_ports

    def read(self, channel: Channel, arguments: Arguments) -> None:
        """Send the number of running processes, open terminals and established connections."""
        del arguments
        channel.send_result(
            {
                "processes": max(0, count_processes(self._proc, self._own) - self._sessions.idle()),
                "terminals": self._terminals.alive(),
                "connections": count_connections(self._proc, self._own, self._own_ports),
            }
        )


def count_processes(proc: int, own: int) -> int:
    """Count the living processes, except kernel threads, `own` and its ancestors."""
    parents: dict[int, int] = {}
    for name in processes(proc):
        fields = read(proc, f"{name}/stat").rpartition(b")")[2].split()
        if len(fields) > _FLAGS and fields[_STATE] not in _ENDED and not int(fields[_FLAGS]) & _KERNEL_THREAD:
            parents[int(name)] = int(fields[_PARENT])
    while own in parents:
        own = parents.pop(own)
    return len(parents)


def count_connections(proc: int, own: int, own_ports: frozenset[int]) -> int:
    """Count the established TCP connections to listening ports, except `own_ports`, in the network of process `own`."""
    listening: set[int] = set()
    connected: list[int] = []
    for table in _TABLES:
        for line in read(proc, f"{own}/net/{table}").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            port = int(local.rpartition(b":")[2], 16)
            if state == _LISTEN:
                listening.add(port)
            elif state == _ESTABLISHED:
                connected.append(port)
    listening -= own_ports
    return sum(port in listening for port in connected)
