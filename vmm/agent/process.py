"""One started program: its pipes, its output and its exit status.

The thread that waits for a process also pumps it, that is, moves its input and output, so a short command needs no
second thread. Exactly one thread pumps at a time; the others read the kept output and wait on the condition.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from .channel import Channel
from .hold import Hold
from .memory_kills import MemoryKills
from .output import OutputLog
from .output_pipes import OutputPipes
from .refusals import GUEST, RefusalError
from .spawn import Child
from .standard_input import StandardInput
from .trees import Tree, Trees

_SETTLE_QUIET_S = 0.1
"""Seconds without output after the main process ended, until it counts as settled though others hold its pipes open."""
_SETTLE_MAX_S = 1.0
"""Seconds after the main process ended, until it counts as settled though others still write to its pipes."""
_MAX_WAIT_S = 1000.0
"""Maximum seconds of one wait; a longer wait takes several."""
_MAX_LABEL = 1000


@dataclass(slots=True, kw_only=True)
class Streams:
    """The agent's ends of a process's streams; -1 for a stream that it does not have."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    pending: bytes = b""
    keep_stdin: bool = False


class Process:
    """A running or finished program.

    Attributes:
        pid: Its pid in the sandbox's PID namespace.
        running: Whether the main process still runs.
        settled: Whether the main process has ended and its output has stopped, so that it can be reported as finished.
        drained: Whether all its output pipes are closed too, so that no more output can follow.
        background: Whether nobody waits for it.
        changed: Notified of new output and of every state change.
    """

    def __init__(
        self,
        *,
        child: Child,
        label: str,
        tree: Tree,
        streams: Streams,
        stdout: OutputLog,
        stderr: OutputLog,
        timeout: float,
        memory_kills: MemoryKills,
        hold: bool = False,
    ) -> None:
        self.pid = child.pid
        self.label = label[:_MAX_LABEL]
        self.tree = tree
        self.stdout = stdout
        self.stderr = stderr
        self.started_ms = time.time_ns() // 1_000_000
        self.timed_out = False
        self.background = False
        self.settled = False
        self.drained = False
        self.changed = threading.Condition(threading.Lock())
        self._started = time.monotonic()
        self._ended = 0.0
        self._settles_from = 0.0
        self._last_output = 0.0
        self._status: int | None = None
        self._deadline = self._started + timeout if timeout > 0 else None
        self._waiters = 0
        self._own_pid = child.own_pid
        self._pidfd = child.pidfd
        self._memory_kills = memory_kills
        self._memory_kill = ""
        self._hold = Hold(stdout, stderr) if hold else None
        self._poll = select.poll()
        for fd in (self._pidfd, -1 if self._hold is None else self._hold.wake):
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)
        logs = {fd: log for fd, log in ((streams.stdout, stdout), (streams.stderr, stderr)) if fd >= 0}
        self._outputs = OutputPipes(logs, self._poll, self._hold)
        self._input = StandardInput(
            streams.stdin,
            streams.pending,
            keep_open=streams.keep_stdin,
            shared=streams.stdin in self._outputs,
            poll=self._poll,
            lock=self.changed,
        )
        self._input.watch()

    @property
    def running(self) -> bool:
        """Tell whether the main process still runs."""
        return self._status is None

    def pump(self, *, until: float | None = None, watch: Channel | None = None, settle: bool = True) -> bool:
        """Move input and output until the process is settled or drained, or until the monotonic time `until`.

        Args:
            until: When to stop; None for no limit.
            watch: A connection; stop when its peer disconnects.
            settle: Whether to stop as soon as the process is settled, rather than when it is drained.

        Returns:
            Whether the watched peer disconnected.
        """
        watched = -1
        if watch is not None:
            watched = watch.fileno()
            self._poll.register(watched, select.POLLIN | select.POLLRDHUP)
        try:
            while not (self.drained or (settle and self.settled)):
                now = time.monotonic()
                if until is not None and now >= until:
                    return False
                for fd, event in self._poll.poll(self._poll_timeout_ms(now, until)):
                    if fd == watched:
                        return True
                    self._handle(fd, event)
                self._update_state()
        finally:
            if watch is not None:
                self._poll.unregister(watched)
        return False

    def wait(self, until: float, *, stdout: int | None = None, stderr: int | None = None) -> None:
        """Wait until the process is settled or has output beyond the given offsets, at most until `until`."""
        with self.changed:
            self._waiters += 1
            try:
                while not self.settled:
                    if stdout is not None and (self.stdout.total > stdout or self.stderr.total > (stderr or 0)):
                        return
                    left = until - time.monotonic()
                    if left <= 0:
                        return
                    self.changed.wait(min(left, _MAX_WAIT_S))
            finally:
                self._waiters -= 1

    @contextlib.contextmanager
    def read_by_one(self) -> Generator[None]:
        """Hold the process back during a block if its reader does not keep up; it must have been started so."""
        if self._hold is None:
            yield
            return
        with self.changed:
            self._hold.begin()
        try:
            yield
        finally:
            with self.changed:
                self._hold.end()

    def advance(self, stdout: int, stderr: int) -> None:
        """Note up to which offsets its one reader has read."""
        if self._hold is not None:
            with self.changed:
                self._hold.advance(stdout, stderr)

    def shed(self) -> None:
        """Free the memory of its output."""
        with self.changed:
            self.stdout.shed()
            self.stderr.shed()

    def drop(self) -> None:
        """Free its output on the disk."""
        with self.changed:
            self.stdout.drop()
            self.stderr.drop()

    def room(self) -> int | None:
        """Return how many bytes of input it accepts now; None if its input is closed."""
        return self._input.room()

    def feed(self, data: bytes, *, eof: bool) -> None:
        """Queue input for the process and write it as the process reads.

        Raises:
            RefusalError: Its input is not open, or too much input is pending because it does not read.
        """
        self._input.feed(data, eof=eof, pid=self.pid)

    def pump_in_background(self, trees: Trees) -> None:
        """Pump the rest in a new thread, if the process is not drained, and retire the tree at the end."""
        if self.drained:
            trees.retire(self.tree)
            return
        try:
            _thread.start_new_thread(self._drain, (trees,))
        except RuntimeError as error:
            self.kill()
            self._drain(trees)
            message = f"process {self.pid} was killed: the agent could not start a thread; end some processes"
            raise RefusalError(GUEST, message) from error

    def kill(self) -> None:
        """Kill the whole tree."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the whole tree."""
        self.tree.signal(number, self._own_pid if self.running else -1)

    def info(self) -> dict[str, Any]:
        """Return the process as the host lists it."""
        return {
            "pid": self.pid,
            "command": self.label,
            "started_ms": self.started_ms,
            "background": self.background,
            "stdout_total": self.stdout.total,
            "stderr_total": self.stderr.total,
            **self.status(),
        }

    def status(self) -> dict[str, Any]:
        """Return whether it runs, and how it ended."""
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        end = time.monotonic() if self._status is None else self._ended
        return {
            "running": code is None,
            "exit_code": 128 - code if code is not None and code < 0 else code,
            "signal": -code if code is not None and code < 0 else None,
            "timed_out": self.timed_out,
            "memory_kill": self._memory_kill,
            "duration_ms": int((end - self._started) * 1000),
        }

    def _drain(self, trees: Trees) -> None:
        self.pump(settle=False)
        trees.retire(self.tree)

    def _poll_timeout_ms(self, now: float, until: float | None) -> float | None:
        times = [] if until is None else [until]
        if self._status is None:
            if self._deadline is not None:
                times.append(self._deadline)
        elif not self.settled:
            times.append(self._quiet_at())
        if self._hold is not None and self._hold.holds:
            times.append(self._hold.until)
        return min(max(0.0, min(times) - now), _MAX_WAIT_S) * 1000 + 1 if times else None

    def _quiet_at(self) -> float:
        return min(self._last_output + _SETTLE_QUIET_S, self._settles_from + _SETTLE_MAX_S)

    def _handle(self, fd: int, event: int) -> None:
        if fd == self._pidfd:
            self._reap()
        elif self._hold is not None and fd == self._hold.wake:
            self._go_on(self._hold)
        elif fd == self._input.wake:
            self._input.woken()
        else:
            # A terminal has one descriptor for input and output.
            if fd in self._outputs and event != select.POLLOUT:
                self._read(fd)
            if fd == self._input.fd and event != select.POLLIN:
                self._input.write()

    def _read(self, fd: int) -> None:
        if self._hold is not None:
            with self.changed:
                if self._outputs.stops(fd):
                    return
        log = self._outputs.log(fd)
        data = self._outputs.read(fd)
        if not data:
            self._input.lose(fd)
            return
        with self.changed:
            log.append(data)
            if self._waiters:
                self.changed.notify_all()
        if self._status is not None:
            self._last_output = time.monotonic()

    def _go_on(self, hold: Hold) -> None:
        os.eventfd_read(hold.wake)
        with self.changed:
            freed = self._outputs.freed()
        if freed and self._status is not None:
            self._settles_from = self._last_output = time.monotonic()

    def _reap(self) -> None:
        pid, status = os.waitpid(self._own_pid, os.WNOHANG)
        if pid == 0:
            return
        if status and not self.timed_out:
            self._memory_kill = self._memory_kills.of(self.tree.name, self._started)
        self._poll.unregister(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        with self.changed:
            self._status = status
            self._ended = self._settles_from = self._last_output = time.monotonic()

    def _update_state(self) -> None:
        held = self._hold is not None and self._hold.holds
        if self._hold is not None and held and time.monotonic() >= self._hold.until:
            with self.changed:
                self._hold.end()
        if self._status is None:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._deadline = None
                self.timed_out = True
                self.kill()
            return
        if not self.settled:
            quiet = not held and time.monotonic() >= self._quiet_at()
            if quiet or not self._outputs:
                with self.changed:
                    self.settled = True
                    self.changed.notify_all()
        if not self._outputs and not self.drained:
            self._input.close()
            with self.changed:
                self._input.end()
                if self._hold is not None:
                    self._hold.close()
                self.drained = True
                self.changed.notify_all()
