"""Pseudo-terminals, which stay open when connections to them close."""

from __future__ import annotations

import _thread
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from . import frames, pseudo_terminal
from .arguments import Arguments
from .channel import Channel
from .memory_kills import MemoryKills
from .output import TAIL, OutputLog
from .process import Process, Streams
from .programs import terminal_program
from .refusals import GUEST, NO_PROCESS, RefusalError
from .spawn import Spawner
from .trees import Trees
from .users import Users

_MAX_ALIVE = 64
_MAX_ENDED = 16
_MAX_READ = 4 * 1024 * 1024
_HANGUP_GRACE_S = 0.3
"""Seconds between SIGHUP and SIGKILL when a terminal is closed."""


@dataclass(slots=True, kw_only=True)
class _Terminal:
    name: str
    process: Process
    master: int
    cols: int
    rows: int

    def info(self) -> dict[str, Any]:
        status = self.process.status()
        return {
            "terminal_id": self.name,
            "pid": self.process.pid,
            "cols": self.cols,
            "rows": self.rows,
            "command": self.process.label,
            "started_ms": self.process.started_ms,
            "alive": status["running"],
            "exit_code": status["exit_code"],
            "output_total": self.process.stdout.total,
        }


class Terminals:
    """All open terminals; ended ones stay readable until they are closed or displaced by newer ones."""

    def __init__(self, trees: Trees, users: Users, spawner: Spawner, memory_kills: MemoryKills) -> None:
        self._trees = trees
        self._users = users
        self._spawner = spawner
        self._memory_kills = memory_kills
        self._lock = _thread.allocate_lock()
        self._table: dict[str, _Terminal] = {}

    def alive(self) -> int:
        """Count the terminals whose program still runs."""
        with self._lock:
            return sum(terminal.process.running for terminal in self._table.values())

    def open(self, channel: Channel, arguments: Arguments) -> None:
        """Open a terminal and start its program."""
        program = terminal_program(arguments, self._users)
        cols, rows = pseudo_terminal.size(arguments)
        self._make_room()
        master, slave = pseudo_terminal.open_pair(program.user, cols, rows)
        tree = self._trees.new()
        try:
            child = self._spawner.spawn(
                program, tree, (slave, slave, slave), lambda: pseudo_terminal.set_controlling(0)
            )
        except BaseException:
            os.close(master)
            self._trees.retire(tree)
            raise
        finally:
            os.close(slave)
        process = Process(
            child=child,
            label=program.label,
            tree=tree,
            streams=Streams(stdin=master, stdout=master, keep_stdin=True),
            stdout=OutputLog(head=0, tail=TAIL),
            stderr=OutputLog(head=0, tail=0),
            timeout=0,
            memory_kills=self._memory_kills,
        )
        name = os.urandom(6).hex()
        terminal = _Terminal(name=name, process=process, master=os.dup(master), cols=cols, rows=rows)
        with self._lock:
            self._table[name] = terminal
        process.pump_in_background(self._trees)
        channel.send_result(terminal.info())

    def list(self, channel: Channel, arguments: Arguments) -> None:
        """List all terminals, oldest first."""
        del arguments
        with self._lock:
            terminals = list(self._table.values())
        channel.send_result({"terminals": [terminal.info() for terminal in terminals]})

    def input(self, channel: Channel, arguments: Arguments) -> None:
        """Send input."""
        terminal = self._find(arguments)
        terminal.process.feed(channel.whole_body(frames.MAX_INPUT), eof=False)
        channel.send_result({})

    def resize(self, channel: Channel, arguments: Arguments) -> None:
        """Change the size; the program gets SIGWINCH."""
        terminal = self._find(arguments)
        cols, rows = pseudo_terminal.size(arguments)
        pseudo_terminal.resize(terminal.master, cols, rows)
        terminal.cols, terminal.rows = cols, rows
        channel.send_result({})

    def read(self, channel: Channel, arguments: Arguments) -> None:
        """Read output from an offset on, after waiting up to `wait_ms` for new output."""
        terminal = self._find(arguments)
        process = terminal.process
        offset = arguments.integer("offset", 0)
        limit = min(arguments.integer("max_bytes", frames.MAX_DATA, least=1), _MAX_READ)
        if wait := arguments.integer("wait_ms", 0):
            process.wait(time.monotonic() + wait / 1000, stdout=offset)
        with process.changed:
            offset, data = process.stdout.read(offset, limit)
            info = terminal.info()
        channel.send_result({"info": info, "output": [offset, len(data)]}, (data,))

    def close(self, channel: Channel, arguments: Arguments) -> None:
        """Hang up, kill the processes that do not end, and forget the terminal."""
        terminal = self._find(arguments)
        with self._lock:
            self._table.pop(terminal.name, None)
        self._end(terminal, _HANGUP_GRACE_S)
        channel.send_result({})

    def close_all(self) -> None:
        """Kill the processes of all terminals."""
        with self._lock:
            terminals = list(self._table.values())
            self._table.clear()
        for terminal in terminals:
            self._end(terminal, 0)

    def _end(self, terminal: _Terminal, grace: float) -> None:
        process = terminal.process
        process.signal(signal.SIGHUP)
        if grace:
            process.wait(time.monotonic() + grace)
        process.kill()
        os.close(terminal.master)

    def _find(self, arguments: Arguments) -> _Terminal:
        name = arguments.text("terminal_id")
        with self._lock:
            terminal = self._table.get(name)
        if terminal is None:
            raise RefusalError(
                NO_PROCESS, f"terminal_id: there is no terminal {name[:80]!r}; list the terminals or open one"
            )
        return terminal

    def _make_room(self) -> None:
        with self._lock:
            ended = [terminal for terminal in self._table.values() if not terminal.process.running]
            alive = len(self._table) - len(ended)
            if alive >= _MAX_ALIVE:
                raise RefusalError(GUEST, f"terminals must be at most {_MAX_ALIVE}, got {alive} open; close some")
            surplus = ended[: max(0, len(ended) - _MAX_ENDED + 1)]
            for terminal in surplus:
                del self._table[terminal.name]
        for terminal in surplus:
            os.close(terminal.master)
