"""Document ids: 24 hex digits that sort by creation time, generated without coordination.

Four bytes of seconds, five bytes that are random per process, three bytes of a counter. Within a process each id is
greater than the previous one; across processes ids sort by the second. Ids are not secret.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable

_COUNTER_BITS = 24
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1


class IdSource:
    """Generates ids; safe to use from any thread and in a forked child.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Seconds and counter are one number: when the counter overflows, the carry goes into the seconds, and when the
        # clock is set back, the seconds stay. The order holds in both cases.
        self._last = 0
        self._pid = 0
        self._process = b""

    def new_id(self) -> str:
        """Return an id that is greater than all previous ones of this source."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._process = secrets.token_bytes(5)
            self._last = max(self._last + 1, int(self._clock()) << _COUNTER_BITS)
            seconds, counter = self._last >> _COUNTER_BITS, self._last & _COUNTER_MASK
            return f"{seconds & 0xFFFFFFFF:08x}{self._process.hex()}{counter:06x}"


# One source per process: the random part identifies the process, and ids are ordered within it.
new_id = IdSource().new_id
