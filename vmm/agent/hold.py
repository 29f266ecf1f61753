"""Holding a process back while its reader is slower than it is, so that nothing is dropped unread.

A crowded stream is not read until its reader has caught up; meanwhile its pipe fills, and the process waits in `write`.
"""

from __future__ import annotations

import math
import os
import time

from .output import OutputLog

_PATIENCE_S = 60.0
"""Seconds that a process waits for a reader that never comes."""


class Hold:
    """Which streams of one process wait for its reader. All calls need the process's lock.

    Attributes:
        wake: A descriptor that becomes readable when held streams may go on; -1 once it is closed.
        until: When waiting ends, by the monotonic clock.
    """

    def __init__(self, stdout: OutputLog, stderr: OutputLog) -> None:
        self.wake = os.eventfd(0)
        self.until = time.monotonic() + _PATIENCE_S
        self._stdout = stdout
        self._stderr = stderr
        self._held: dict[int, OutputLog] = {}
        stdout.reader = stderr.reader = 0

    @property
    def holds(self) -> bool:
        """Whether a stream waits."""
        return bool(self._held)

    def stops(self, descriptor: int, log: OutputLog) -> bool:
        """Return whether a stream must wait, and remember it."""
        if not log.crowded:
            return False
        self._held[descriptor] = log
        return True

    def freed(self) -> list[int]:
        """Return the descriptors of the streams that need not wait any more, and forget them."""
        freed = [descriptor for descriptor, log in self._held.items() if not log.crowded]
        for descriptor in freed:
            del self._held[descriptor]
        return freed

    def begin(self) -> None:
        """Wait for the reader, which has come, as long as it stays."""
        self.until = math.inf

    def advance(self, stdout: int, stderr: int) -> None:
        """Note up to which offsets the reader has read."""
        if self._stdout.reader is not None:
            self._stdout.reader, self._stderr.reader = stdout, stderr
            self._wake_up()

    def end(self) -> None:
        """Wait no longer: the reader has left."""
        self._stdout.reader = self._stderr.reader = None
        self._wake_up()

    def close(self) -> None:
        """Close the descriptor: no output can follow."""
        os.close(self.wake)
        self.wake = -1

    def _wake_up(self) -> None:
        if self._held and self.wake >= 0:
            os.eventfd_write(self.wake, 1)
