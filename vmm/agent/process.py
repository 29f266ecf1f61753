"""One started program: its pipes, its output, its end.

Whoever waits for a process pumps it, that is, moves its bytes: a short command needs no second thread. Exactly one
thread pumps at a time; others read what is kept and wait on the condition.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import select
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .channel import Channel
from .memory_kills import MemoryKills
from .output import OutputLog
from .refusals import GUEST, RefusalError
from .spawn import Child
from .trees import Tree, Trees

_PIECE = 64 * 1024
_WIDE = 1024 * 1024
_F_SETPIPE_SZ = 1031
_SILENCE = 0.1
"""Seconds without output after the main process's end until it counts as finished although others hold its pipes."""
_PATIENCE = 1.0
"""Seconds after the main process's end until it counts as finished although others still write."""
_LONGEST = 1000.0
"""Seconds to wait at once; longer waits are several."""
_MAX_PENDING = 4 * 1024 * 1024
_MAX_LABEL = 1000
_READABLE = select.POLLIN


@dataclass(slots=True, kw_only=True)
class Streams:
    """The agent's ends of a process's streams; -1 for what it does not have."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    pending: bytearray = field(default_factory=bytearray)
    keep_stdin: bool = False


class Process:
    """A running or finished program.

    Attributes:
        pid: As the sandbox's programs know it.
        running: Whether the main process has not ended.
        settled: Whether it has ended and its output has fallen silent: it may be reported as finished.
        drained: Whether all its pipes are closed too: nothing more can come.
        changed: Notified with every piece of output and every change of state.
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
    ) -> None:
        self.pid = child.pid
        self.label = label[:_MAX_LABEL]
        self.tree = tree
        self.stdout = stdout
        self.stderr = stderr
        self.started_ms = time.time_ns() // 1_000_000
        self.timed_out = False
        self.settled = False
        self.drained = False
        self.changed = threading.Condition(threading.Lock())
        self._started = time.monotonic()
        self._ended = 0.0
        self._last_output = 0.0
        self._status: int | None = None
        self._deadline = self._started + timeout if timeout > 0 else None
        self._streams = streams
        self._logs = {fd: log for fd, log in ((streams.stdout, stdout), (streams.stderr, stderr)) if fd >= 0}
        self._wide: set[int] = set()
        self._waiters = 0
        self._own_pid = child.own_pid
        self._pidfd = child.pidfd
        self._memory_kills = memory_kills
        self._memory_kill = ""
        self._wake = os.eventfd(0) if streams.keep_stdin else -1
        self._poll = select.poll()
        for fd in (*self._logs, self._pidfd, self._wake):
            if fd >= 0:
                self._poll.register(fd, _READABLE)
        self._watch_input()

    @property
    def running(self) -> bool:
        """Whether the main process has not ended."""
        return self._status is None

    def pump(self, *, until: float | None = None, watch: Channel | None = None, settle: bool = True) -> bool:
        """Move bytes until the process is finished, or until the monotonic second `until`.

        Args:
            until: When to stop waiting; None for never.
            watch: Stop when this connection's peer goes away.
            settle: Stop as soon as the process is settled, rather than only when it is drained.

        Returns:
            Whether the watched peer went away.
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
                for fd, event in self._poll.poll(self._patience(now, until)):
                    if fd == watched:
                        return True
                    self._serve(fd, event)
                self._judge()
        finally:
            if watch is not None:
                self._poll.unregister(watched)
        return False

    def wait(self, until: float, *, stdout: int | None = None, stderr: int | None = None) -> None:
        """Wait until the process is settled, or for output beyond the given offsets, at most until `until`."""
        with self.changed:
            self._waiters += 1
            try:
                while not self.settled:
                    if stdout is not None and (self.stdout.total > stdout or self.stderr.total > (stderr or 0)):
                        return
                    left = until - time.monotonic()
                    if left <= 0:
                        return
                    self.changed.wait(min(left, _LONGEST))
            finally:
                self._waiters -= 1

    def room(self) -> int | None:
        """Bytes of input that it takes at this moment; None if its input is closed."""
        with self.changed:
            if self._wake < 0 or self._streams.stdin < 0 or not self._streams.keep_stdin:
                return None
            return _MAX_PENDING - len(self._streams.pending)

    def feed(self, data: bytes, *, eof: bool) -> None:
        """Give the process input; what its pipe does not take at once follows as it reads.

        Raises:
            RefusalError: It has no open input, or does not read what it has.
        """
        with self.changed:
            if self._wake < 0 or self._streams.stdin < 0 or not self._streams.keep_stdin:
                raise RefusalError(GUEST, f"process {self.pid}: its standard input is not open")
            if len(self._streams.pending) + len(data) > _MAX_PENDING:
                raise RefusalError(GUEST, f"process {self.pid}: it does not read its input; nothing more was sent")
            self._streams.pending += data
            if eof:
                self._streams.keep_stdin = False
            os.eventfd_write(self._wake, 1)

    def go_on(self, trees: Trees) -> None:
        """Let a thread of its own move what is still to come, if anything, and give the tree back at the end."""
        if self.drained:
            trees.retire(self.tree)
            return
        try:
            _thread.start_new_thread(self._drain, (trees,))
        except RuntimeError as error:
            self.kill()
            self._drain(trees)
            raise RefusalError(GUEST, f"process {self.pid} was killed: the guest can hold no more threads") from error

    def kill(self) -> None:
        """End the whole tree at once."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the whole tree."""
        self.tree.signal(number, self._own_pid if self.running else -1)

    def info(self) -> dict[str, Any]:
        """The process as the host lists it."""
        return {
            "pid": self.pid,
            "command": self.label,
            "started_ms": self.started_ms,
            "stdout_total": self.stdout.total,
            "stderr_total": self.stderr.total,
            **self.standing(),
        }

    def standing(self) -> dict[str, Any]:
        """Whether and how it ended."""
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

    def _patience(self, now: float, until: float | None) -> float | None:
        times = [] if until is None else [until]
        if self._status is None:
            if self._deadline is not None:
                times.append(self._deadline)
        elif not self.settled:
            times.append(min(self._last_output + _SILENCE, self._ended + _PATIENCE))
        return min(max(0.0, min(times) - now), _LONGEST) * 1000 + 1 if times else None

    def _serve(self, fd: int, event: int) -> None:
        if fd == self._pidfd:
            self._reap()
        elif fd == self._wake:
            os.eventfd_read(fd)
            self._watch_input()
        else:
            # A terminal's one descriptor is both.
            if fd in self._logs and event != select.POLLOUT:
                self._read(fd)
            if fd == self._streams.stdin and event != select.POLLIN:
                self._write_input()

    def _read(self, fd: int) -> None:
        wide = fd in self._wide
        try:
            data = os.read(fd, _WIDE // 4 if wide else _PIECE)
        except OSError:
            data = b""  # A terminal whose last user has gone reports an error in place of an end.
        if not data:
            self._close_output(fd)
            return
        if len(data) == _PIECE and not wide:
            self._widen(fd)
        with self.changed:
            self._logs[fd].append(data)
            if self._waiters:
                self.changed.notify_all()
        if self._status is not None:
            self._last_output = time.monotonic()

    def _widen(self, fd: int) -> None:
        """Let a stream that pours move more at once."""
        self._wide.add(fd)
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _WIDE)
        except OSError:
            return  # A terminal, or a kernel with a lower limit: slower, but right.

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
            self._ended = self._last_output = time.monotonic()

    def _judge(self) -> None:
        if self._status is None:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._deadline = None
                self.timed_out = True
                self.kill()
            return
        if not self.settled:
            now = time.monotonic()
            quiet = now >= min(self._last_output + _SILENCE, self._ended + _PATIENCE)
            if quiet or not self._logs:
                with self.changed:
                    self.settled = True
                    self.changed.notify_all()
        if not self._logs and not self.drained:
            self._close_input()
            with self.changed:
                if self._wake >= 0:
                    os.close(self._wake)
                    self._wake = -1
                self.drained = True
                self.changed.notify_all()

    def _watch_input(self) -> None:
        """Ask to be told when input can be written, or close it when all is written and no more will come."""
        streams = self._streams
        if streams.stdin < 0:
            return
        if streams.pending:
            self._write_input()
            if streams.stdin >= 0 and streams.pending:
                mask = select.POLLOUT | (_READABLE if streams.stdin in self._logs else 0)
                self._poll.register(streams.stdin, mask)
        elif not streams.keep_stdin:
            self._close_input()

    def _write_input(self) -> None:
        streams = self._streams
        with self.changed:
            try:
                written = os.write(streams.stdin, streams.pending[:_PIECE])
                del streams.pending[:written]
            except BlockingIOError:
                return
            except OSError:
                streams.pending.clear()  # Nobody reads it any more.
                streams.keep_stdin = False
        if not streams.pending:
            self._unwatch_input()

    def _unwatch_input(self) -> None:
        streams = self._streams
        if not streams.keep_stdin:
            self._close_input()
            return
        if streams.stdin in self._logs:
            self._poll.register(streams.stdin, _READABLE)
            return
        with contextlib.suppress(KeyError):  # It is not registered if all was written at once.
            self._poll.unregister(streams.stdin)

    def _close_input(self) -> None:
        fd, self._streams.stdin = self._streams.stdin, -1
        if fd < 0:
            return
        if fd == self._streams.stdout:
            self._poll.register(fd, _READABLE)  # A terminal's one descriptor: its output goes on.
            return
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        os.close(fd)

    def _close_output(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._logs[fd]
        if fd == self._streams.stdin:
            self._streams.stdin = -1
        os.close(fd)
