"""A program's standard input: what callers queue is written as the program reads it."""

from __future__ import annotations

import contextlib
import os
import select
import threading

from .refusals import GUEST, RefusalError

_PIECE = 64 * 1024
_MAX_PENDING = 4 * 1024 * 1024


class StandardInput:
    """The agent's end of one program's input.

    Any thread may call `room` and `feed`; all else is for the one that pumps the process.

    Args:
        fd: The descriptor to write to; -1 if the program has no input.
        pending: What is written first.
        keep_open: Whether more will follow; otherwise the input is closed once `pending` is written.
        shared: Whether the output comes from the same descriptor, as a terminal's does; the output then
            closes it.
        poll: What the pump waits on.
        lock: The process's lock.

    Attributes:
        fd: The descriptor; -1 once the input is closed.
        wake: A descriptor that becomes readable when there is something new to write; -1 if that cannot be.
    """

    def __init__(
        self,
        fd: int,
        pending: bytes,
        *,
        keep_open: bool,
        shared: bool,
        poll: select.poll,
        lock: threading.Condition,
    ) -> None:
        self.fd = fd
        self.wake = os.eventfd(0) if keep_open else -1
        self._pending = bytearray(pending)
        self._keep_open = keep_open
        self._shared = shared
        self._poll = poll
        self._lock = lock
        if self.wake >= 0:
            poll.register(self.wake, select.POLLIN)

    def room(self) -> int | None:
        """Return how many bytes it accepts now; None if it is closed."""
        with self._lock:
            return _MAX_PENDING - len(self._pending) if self._open else None

    def feed(self, data: bytes, *, eof: bool, pid: int) -> None:
        """Queue input.

        Raises:
            RefusalError: The input is not open, or too much is pending because the program does not read.
        """
        with self._lock:
            if not self._open:
                raise RefusalError(GUEST, f"process {pid}: standard input is not open")
            if len(self._pending) + len(data) > _MAX_PENDING:
                pending = f"{len(self._pending)} bytes are pending, no more were sent"
                raise RefusalError(GUEST, f"process {pid} does not read its input: {pending}")
            self._pending += data
            if eof:
                self._keep_open = False
            os.eventfd_write(self.wake, 1)

    def woken(self) -> None:
        """Look at what callers queued."""
        os.eventfd_read(self.wake)
        self.watch()

    def watch(self) -> None:
        """Poll for writability while input is pending; close the input when all is written and none will follow."""
        if self.fd < 0:
            return
        if self._pending:
            self.write()
            if self.fd >= 0 and self._pending:
                self._poll.register(self.fd, select.POLLOUT | (select.POLLIN if self._shared else 0))
        elif not self._keep_open:
            self.close()

    def write(self) -> None:
        """Write as much as the program takes now."""
        with self._lock:
            try:
                written = os.write(self.fd, self._pending[:_PIECE])
                del self._pending[:written]
            except BlockingIOError:
                return
            except OSError:
                self._pending.clear()  # No process reads it any more.
                self._keep_open = False
        if not self._pending:
            self._unwatch()

    def close(self) -> None:
        """Close the input: no more will be written."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self._shared:
            self._poll.register(fd, select.POLLIN)  # The output continues.
            return
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        os.close(fd)

    def lose(self, fd: int) -> None:
        """Note that a descriptor was closed, which may be this input's."""
        if fd == self.fd:
            self.fd = -1

    def end(self) -> None:
        """Free what is left; needs the process's lock."""
        if self.wake >= 0:
            os.close(self.wake)
            self.wake = -1

    @property
    def _open(self) -> bool:
        return self.wake >= 0 and self.fd >= 0 and self._keep_open

    def _unwatch(self) -> None:
        if not self._keep_open:
            self.close()
        elif self._shared:
            self._poll.register(self.fd, select.POLLIN)
        else:
            with contextlib.suppress(KeyError):  # It is not registered if all was written at once.
                self._poll.unregister(self.fd)
