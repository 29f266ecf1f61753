"""The agent's ends of one program's output pipes, read into its logs."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Mapping

from .hold import Hold
from .output import OutputLog

_PIECE = 64 * 1024
_WIDE_PIPE = 1024 * 1024
_F_SETPIPE_SZ = 1031


class OutputPipes:
    """The pipes of one process that are still open. `stops` and `freed` need the process's lock.

    Args:
        logs: Where the output of each descriptor goes.
        poll: What the pump waits on.
        hold: Holds streams back while their reader is slow; None if nothing does.
    """

    def __init__(self, logs: Mapping[int, OutputLog], poll: select.poll, hold: Hold | None) -> None:
        self._logs = dict(logs)
        self._wide: set[int] = set()
        self._poll = poll
        self._hold = hold
        for fd in self._logs:
            poll.register(fd, select.POLLIN)

    def __contains__(self, fd: int) -> bool:
        return fd in self._logs

    def __bool__(self) -> bool:
        return bool(self._logs)

    def log(self, fd: int) -> OutputLog:
        """Return where the output of a descriptor goes."""
        return self._logs[fd]

    def divert(self, fd: int, log: OutputLog) -> None:
        """Keep what a descriptor gives from now on in another log. A no-op once it is closed."""
        if fd in self._logs:
            self._logs[fd] = log

    def stops(self, fd: int) -> bool:
        """Return whether a stream must wait for its reader; then it is not polled until `freed`."""
        if self._hold is None or not self._hold.stops(fd, self._logs[fd]):
            return False
        self._poll.unregister(fd)
        return True

    def freed(self) -> bool:
        """Poll again the streams that need not wait any more, and return whether there are any."""
        assert self._hold is not None
        freed = self._hold.freed()
        for fd in freed:
            self._poll.register(fd, select.POLLIN)
        return bool(freed)

    def read(self, fd: int) -> bytes:
        """Read what is there; nothing if the stream has ended, which also closes it."""
        wide = fd in self._wide
        size = _WIDE_PIPE // 4 if wide else _PIECE
        if self._hold is not None:
            size = min(size, self._logs[fd].room)
        try:
            data = os.read(fd, size)
        except OSError:
            data = b""  # A terminal that no process has open reports EIO, not the end of the file.
        if not data:
            self._poll.unregister(fd)
            del self._logs[fd]
            os.close(fd)
        elif len(data) == _PIECE and not wide:
            self._widen(fd)
        return data

    def _widen(self, fd: int) -> None:
        """Enlarge the pipe and the reads of a stream with much output."""
        self._wide.add(fd)
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _WIDE_PIPE)
        except OSError:
            return  # A terminal, or a kernel with a lower limit: slower, but correct.
