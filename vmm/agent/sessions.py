"""Sessions: shells that run one command after the other and keep their state; they outlive every connection."""

from __future__ import annotations

import _thread
import fcntl
import os
import signal
import time

from . import frames, pseudo_terminal
from .arguments import Arguments
from .channel import Channel
from .memory_kills import MemoryKills
from .output import HEAD
from .programs import Program, is_bash, session_program
from .refusals import CONFLICT, GUEST, NO_PROCESS, RefusalError, invalid
from .session_command import REPORTS, SessionCommand
from .session_shell import SessionShell
from .spawn import Spawner
from .spool import Spools
from .trees import Trees
from .users import Users

_MAX_ALIVE = 32
_MAX_ENDED = 16
_MAX_KEEP = 4 * 1024 * 1024
_MAX_NAME = 100
_START_S = 30.0
_HANGUP_GRACE_S = 0.3
_PREPARE = b"set +m"
_PREPARE_BASH = b"set +mH +o history; unset HISTFILE"


class Sessions:
    """All sessions; ended ones stay readable until they are closed or displaced by newer ones."""

    def __init__(
        self,
        trees: Trees,
        users: Users,
        spawner: Spawner,
        null: int,
        memory_kills: MemoryKills,
        spools: Spools | None = None,
    ) -> None:
        self._trees = trees
        self._users = users
        self._spawner = spawner
        self._memory_kills = memory_kills
        self._lock = _thread.allocate_lock()
        self._table: dict[str, SessionShell] = {}
        self._null = null
        self._spools = spools
        if spools is not None:
            spools.owners.append(self._spare)
        self._reserved = _reserve_descriptors(null)

    def idle(self) -> int:
        """Count the shells that wait for a command."""
        with self._lock:
            return sum(shell.running and shell.is_over(shell.command) for shell in self._table.values())

    def open(self, channel: Channel, arguments: Arguments) -> None:
        """Start a session's shell, and answer when it is ready for commands."""
        name = arguments.text("session_id")
        if not 0 < len(name) <= _MAX_NAME:
            raise invalid(f"session_id must have 1 to {_MAX_NAME} characters, got {len(name)}")
        program = session_program(arguments, self._users)
        size = pseudo_terminal.size(arguments)
        surplus: list[SessionShell] = []
        try:
            with self._lock:
                surplus = self._make_room(name)
                shell = self._start(program, size)
                self._table[name] = shell
        finally:
            for old in surplus:
                _end(old, 0)
        shell.pump_in_background(self._trees)
        try:
            shell.prepare(_PREPARE_BASH if is_bash(program.path) else _PREPARE, time.monotonic() + _START_S)
        except RefusalError:
            self._remove(name)
            _end(shell, 0)
            raise
        if channel.gone() and not channel.retired:
            # Whoever wanted it may not even know its id.
            self._remove(name)
            _end(shell, 0)
            return
        channel.send_result({})

    def start(self, channel: Channel, arguments: Arguments) -> None:
        """Run a command in a session, and answer with its number at once."""
        line = arguments.raw("command")
        if not line.strip():
            raise invalid("command must not be empty")
        if self._spools is not None:
            self._spools.make_room()
        command = self._find(arguments).begin(line, arguments.integer("timeout_ms", 0) / 1000)
        channel.send_result({"number": command.number})

    def wait(self, channel: Channel, arguments: Arguments) -> None:
        """Answer with both ends of a command's output when it is over or `wait_ms` have passed."""
        shell, command = self._command(arguments)
        head = min(arguments.integer("keep_head", HEAD), _MAX_KEEP)
        tail = min(arguments.integer("keep_tail", HEAD), _MAX_KEEP)
        shell.wait_for(command, time.monotonic() + arguments.integer("wait_ms") / 1000)
        with shell.changed:
            parts = command.log.ends(head, tail)
            value = shell.state(command)
        channel.send_result(
            {**value, "output": [len(parts[0]), len(parts[1]), command.log.total]},
            parts,
        )

    def read(self, channel: Channel, arguments: Arguments) -> None:
        """Read a command's output from an offset on, after waiting up to `wait_ms` for more of it."""
        shell, command = self._command(arguments)
        offset = arguments.integer("offset", 0)
        limit = min(arguments.integer("max_bytes", frames.MAX_DATA, least=1), _MAX_KEEP)
        shell.wait_for(command, time.monotonic() + arguments.integer("wait_ms", 0) / 1000, offset=offset)
        with shell.changed:
            offset, data = command.log.read(offset, limit)
            value = shell.state(command)
        channel.send_result({**value, "total": command.log.total, "output": [offset, len(data)]}, (data,))

    def input(self, channel: Channel, arguments: Arguments) -> None:
        """Send input to the command that runs."""
        shell = self._find(arguments)
        data = channel.whole_body(frames.MAX_INPUT)
        if shell.is_over(shell.command):
            raise RefusalError(GUEST, "no command runs in the session, so nothing would read the input; use exec")
        shell.feed(data, eof=False)
        channel.send_result({})

    def resize(self, channel: Channel, arguments: Arguments) -> None:
        """Change the size of a session's terminal; the program gets SIGWINCH."""
        shell = self._find(arguments)
        shell.resize(*pseudo_terminal.size(arguments))
        channel.send_result({})

    def interrupt(self, channel: Channel, arguments: Arguments) -> None:
        """Interrupt a command, and answer when it is over."""
        shell, command = self._command(arguments)
        shell.stop(command)
        channel.send_result(shell.state(command))

    def close(self, channel: Channel, arguments: Arguments) -> None:
        """Hang up, kill the processes that do not end, and forget the session."""
        shell = self._find(arguments)
        self._remove(arguments.text("session_id"))
        _end(shell, _HANGUP_GRACE_S)
        channel.send_result({})

    def close_all(self) -> None:
        """Kill the processes of all sessions."""
        with self._lock:
            shells = list(self._table.values())
            self._table.clear()
        for shell in shells:
            _end(shell, 0)

    def _start(self, program: Program, size: tuple[int, int]) -> SessionShell:
        pipes = [*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)]
        commands, give, take, reports = pipes
        try:
            master, slave = pseudo_terminal.open_pair(program.user, *size)
        except BaseException:
            _close(*pipes)
            raise
        tree = self._trees.new()

        def prepare() -> None:
            pseudo_terminal.set_controlling(1)
            os.dup2(reports, REPORTS)

        try:
            child = self._spawner.spawn(program, tree, (commands, slave, self._null), prepare)
        except BaseException:
            _close(give, take, master)
            self._trees.retire(tree)
            raise
        finally:
            _close(commands, reports, slave)
        os.set_blocking(give, False)
        return SessionShell(
            child=child,
            label=program.label,
            tree=tree,
            master=master,
            commands=give,
            reports=take,
            memory_kills=self._memory_kills,
            spools=self._spools,
        )

    def _spare(self) -> None:
        with self._lock:
            shells = list(self._table.values())
        for shell in shells:
            if self._spools is None or self._spools.roomy():
                break
            shell.spare()

    def _command(self, arguments: Arguments) -> tuple[SessionShell, SessionCommand]:
        shell = self._find(arguments)
        number = arguments.integer("number")
        command = shell.command
        if command.number != number:
            raise RefusalError(NO_PROCESS, f"number: the session's last command is {command.number}, not {number}")
        return shell, command

    def _find(self, arguments: Arguments) -> SessionShell:
        name = arguments.text("session_id")
        with self._lock:
            shell = self._table.get(name)
        if shell is None:
            raise RefusalError(NO_PROCESS, f"session_id: there is no session {name[:_MAX_NAME]!r}; create it")
        return shell

    def _remove(self, name: str) -> None:
        with self._lock:
            self._table.pop(name, None)

    def _make_room(self, name: str) -> list[SessionShell]:
        """Forget the oldest ended sessions beyond the limit, and an ended one of this name; return them."""
        ended = [key for key, shell in self._table.items() if not shell.running]
        if name in self._table and name not in ended:
            raise RefusalError(CONFLICT, f"session_id: there is a session {name!r} already; close it, or use it")
        alive = len(self._table) - len(ended)
        if alive >= _MAX_ALIVE:
            raise RefusalError(GUEST, f"sessions must be at most {_MAX_ALIVE}, got {alive} open; close some")
        others = [key for key in ended if key != name]
        surplus = others[: max(0, len(others) - _MAX_ENDED + 1)]
        return [self._table.pop(key) for key in (*surplus, name) if key in self._table]


def _end(shell: SessionShell, grace: float) -> None:
    shell.signal(signal.SIGHUP)
    if grace:
        shell.wait(time.monotonic() + grace)
    shell.kill()
    shell.forget()


def _reserve_descriptors(null: int) -> list[int]:
    """Occupy all descriptors up to that of the reports, so that a forked child finds nothing in its place."""
    reserved: list[int] = []
    while (descriptor := fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 0)) <= REPORTS:
        reserved.append(descriptor)
    os.close(descriptor)
    return reserved


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
