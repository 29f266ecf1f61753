"""The shell of a session: it runs one command after the other and keeps its directory, variables and functions.

The shell reads its commands from a pipe, while a command's own input and output are the session's terminal; so nothing
that a command reads or prints can be taken for a command or for its end. The end is told over a second pipe: behind
each command the shell is given a line that writes the command's number and status there. Commands do not have this
pipe open. The shell's own standard error, to which it writes its prompts, leads nowhere.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from typing import Any

from . import pseudo_terminal
from .memory_kills import MemoryKills
from .output import OutputLog
from .process import Process, Streams
from .refusals import CONFLICT, GUEST, NO_PROCESS, RefusalError
from .session_command import SessionCommand, statement
from .spawn import Child
from .spool import Spools
from .trees import Tree, Trees

_INTERRUPTS = 4
"""How often a command that has to end is interrupted before it is killed."""
_INTERRUPT_PAUSE_S = 0.5
_FIRST_LOOK_S = 0.0005
_LAST_LOOK_S = 0.02
_MAX_WAIT_S = 1000.0
_MAX_LATE_READS = 64
_MAX_REPORT = 100
_WIDE_PIPE = 1024 * 1024
_SIGNALLED = 128
_F_SETPIPE_SZ = 1031
_TIOCSIG = 0x40045436
"""Sends a signal to what runs in the foreground of a master's terminal, see ioctl_tty(2)."""


class SessionShell(Process):
    """A shell on a terminal of its own.

    Attributes:
        command: The latest command.
    """

    def __init__(
        self,
        *,
        child: Child,
        label: str,
        tree: Tree,
        master: int,
        commands: int,
        reports: int,
        memory_kills: MemoryKills,
        spools: Spools | None = None,
    ) -> None:
        self._spools = spools
        self.command = SessionCommand(number=0, log=OutputLog())
        self._master = master
        self._commands = commands
        self._reports = reports
        self._report = b""
        self._open = True
        super().__init__(
            child=child,
            label=label,
            tree=tree,
            # The pump closes its descriptor at the end, which other threads may still use.
            streams=Streams(stdin=(pumped := os.dup(master)), stdout=pumped, keep_stdin=True),
            stdout=self.command.log,
            stderr=OutputLog(head=0, tail=0),
            timeout=0,
            memory_kills=memory_kills,
        )
        self._pumped = pumped
        self._poll.register(reports, select.POLLIN)
        self._modes = pseudo_terminal.silence(master)

    def prepare(self, line: bytes, until: float) -> None:
        """Give the shell a line before its first command, and wait until it has run.

        Raises:
            RefusalError: The shell has ended, or not run it by the monotonic time `until`.
        """
        self._give(self.command, line + b"\n")
        if not self.wait_for(self.command, until) or not self.running:
            data = self.command.log.read(0, 1000)[1].decode("utf-8", "replace").strip()
            raise RefusalError(GUEST, f"shell: {self.label} did not start{f': {data}' if data else ''}")

    def begin(self, line: bytes, timeout: float) -> SessionCommand:
        """Run a command in the background.

        Args:
            line: The command.
            timeout: Seconds after which it is interrupted; 0 for no limit.

        Raises:
            RefusalError: The shell has ended, or a command is running.
        """
        with self.changed:
            previous = self.command
            if not self.running:
                code = self.status()["exit_code"]
                raise RefusalError(NO_PROCESS, f"the session has ended with exit code {code}; create another")
            if not self.is_over(previous):
                raise RefusalError(CONFLICT, "the session runs another command; wait for its end, or use a second one")
            command = SessionCommand(number=previous.number + 1, log=OutputLog(spools=self._spools))
            self.command = command
            self.stdout = command.log
            self._outputs.divert(self._pumped, command.log)
        status = previous.exit_code or 0
        if status >= _SIGNALLED:
            # A program that was killed may have left the terminal without echo or in raw mode.
            self._control(lambda master: termios.tcsetattr(master, termios.TCSANOW, self._modes))
        if timeout > 0:
            self._watch_time(command, timeout)
        self._give(command, statement(line, status))
        return command

    def is_over(self, command: SessionCommand) -> bool:
        """Return whether a command has ended, alone or with its shell."""
        return command.exit_code is not None or self.settled or command is not self.command

    def wait_for(self, command: SessionCommand, until: float, *, offset: int | None = None) -> bool:
        """Wait until a command is over, or has output beyond an offset, at most until the monotonic time `until`.

        Returns:
            Whether it is over.
        """
        with self.changed:
            self._waiters += 1
            try:
                while not self.is_over(command) and (offset is None or command.log.total <= offset):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self.changed.wait(min(left, _MAX_WAIT_S))
                return self.is_over(command)
            finally:
                self._waiters -= 1

    def stop(self, command: SessionCommand, *, timed_out: bool = False) -> None:
        """Interrupt a command as Ctrl-C does; one that does not end is killed, and the whole session with it."""
        with self.changed:
            if self.is_over(command):
                return
            command.timed_out = timed_out
        for _ in range(_INTERRUPTS):
            # More than one, since a process that is just being started may miss it.
            self._control(lambda master: fcntl.ioctl(master, _TIOCSIG, signal.SIGINT))
            if self.wait_for(command, time.monotonic() + _INTERRUPT_PAUSE_S):
                return
        self.kill()

    def state(self, command: SessionCommand) -> dict[str, Any]:
        """Return whether a command runs, how it ended, and whether the session ended with it."""
        running = not self.is_over(command)
        code = command.exit_code
        return {
            "running": running,
            "exit_code": self.status()["exit_code"] if code is None and not running else code,
            "timed_out": command.timed_out,
            "ended": not self.running,
        }

    def spare(self) -> None:
        """Free the output on the disk of a command that is over."""
        with self.changed:
            if self.is_over(self.command):
                self.command.log.drop()

    def resize(self, cols: int, rows: int) -> None:
        """Change the terminal's size."""
        self._control(lambda master: pseudo_terminal.resize(master, cols, rows))

    def forget(self) -> None:
        """Close the terminal, apart from what the pump still reads."""
        with self.changed:
            os.close(self._master)
            self._master = -1

    def _control(self, act: Callable[[int], object]) -> None:
        with self.changed:
            if self._master >= 0:
                act(self._master)

    def _give(self, command: SessionCommand, text: bytes) -> None:
        """Give the shell a text, and behind it the line that reports its end.

        That line is written only after the text was read: some shells drop what else they have read after an error.
        """
        self._write(text)
        pause = _FIRST_LOOK_S
        while not self.is_over(command) and self._unread():
            time.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK_S)
        self._write(command.report())

    def _write(self, text: bytes) -> None:
        with self.changed:
            if not self._open:
                return
            try:
                if len(text) > select.PIPE_BUF:
                    fcntl.fcntl(self._commands, _F_SETPIPE_SZ, _WIDE_PIPE)
                whole = os.write(self._commands, text) == len(text)
            except BrokenPipeError:
                return  # The shell has ended, and so is the command over.
            except OSError:
                whole = False
        if not whole:
            self.kill()  # It does not read, and must not run the beginning of a command.

    def _unread(self) -> int:
        with self.changed:
            if not self._open:
                return 0
            (count,) = struct.unpack("i", fcntl.ioctl(self._commands, termios.FIONREAD, bytes(4)))
            return count

    def _watch_time(self, command: SessionCommand, timeout: float) -> None:
        def watch() -> None:
            if not self.wait_for(command, until):
                self.stop(command, timed_out=True)

        until = time.monotonic() + timeout
        try:
            _thread.start_new_thread(watch, ())
        except RuntimeError as error:
            command.exit_code = _SIGNALLED + signal.SIGKILL
            raise RefusalError(GUEST, "the agent could not start a thread; end some processes") from error

    def _handle(self, fd: int, event: int) -> None:
        if fd == self._reports:
            self._take_report()
        else:
            super()._handle(fd, event)

    def _take_report(self) -> None:
        data = os.read(self._reports, _MAX_REPORT)
        if not data:
            self._poll.unregister(self._reports)
            return
        *lines, rest = (self._report + data).split(b"\n")
        self._report = rest[-_MAX_REPORT:]
        for line in lines:
            number, _, status = line.partition(b" ")
            command = self.command
            if number == b"%d" % command.number and status.isdigit() and not self.is_over(command):
                self._read_rest()
                with self.changed:
                    command.exit_code = int(status[-3:]) & 0xFF
                    self.changed.notify_all()

    def _read_rest(self) -> None:
        """Read what the command has printed until its end; what others print meanwhile must not go on for ever."""
        poll = select.poll()
        poll.register(self._pumped, select.POLLIN)
        for _ in range(_MAX_LATE_READS):
            if self._pumped not in self._outputs or not poll.poll(0):
                return
            self._read(self._pumped)

    def _drain(self, trees: Trees) -> None:
        super()._drain(trees)
        with self.changed:
            self._open = False
            os.close(self._commands)
            os.close(self._reports)
