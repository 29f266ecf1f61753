"""Processes that the kernel's out-of-memory killer ended, read from the kernel's log.

The kernel logs two lines for each: `oom-kill:...,task_memcg=/GROUP,task=NAME,pid=PID,...`, which it omits if there are
many, and `... Killed process PID (NAME) total-vm:..., anon-rss:812kB, file-rss:..., shmem-rss:...`.
"""

from __future__ import annotations

import _thread
import os
import re
from collections import deque

_SUMMARY = re.compile(rb"oom-kill:.*task_memcg=([^,]*),.*pid=(\d+)")
_KILLED = re.compile(rb"Killed process (\d+) \((.*)\) total-vm:\d+kB, anon-rss:(\d+)kB, .*shmem-rss:(\d+)kB")
_RECORD_SIZE = 8192
_MAX_KEPT = 64
_MAX_RECORDS = 2000
_KIB_IN_MIB = 1024


class MemoryKills:
    """Reads what the kernel logs from this object's creation on.

    Args:
        log: A non-blocking descriptor of /dev/kmsg; -1 if there is none.
    """

    def __init__(self, log: int) -> None:
        self._log = log
        self._lock = _thread.allocate_lock()
        self._groups: dict[int, bytes] = {}
        self._found: deque[tuple[float, bytes, str]] = deque(maxlen=_MAX_KEPT)
        if log >= 0:
            os.lseek(log, 0, os.SEEK_END)

    @classmethod
    def open(cls) -> MemoryKills:
        """Open the kernel's log, if this user may read it."""
        try:
            return cls(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            return cls(-1)

    def of(self, group: str, since: float) -> str:
        """Return the last process killed in a command's cgroup, such as `python3 (812 MiB)`, or "" if there is none.

        Args:
            group: The name of the command's group; empty finds nothing.
            since: The monotonic second at which the command was started.
        """
        if not group:
            return ""
        with self._lock:
            self._read()
            for second, cgroup, victim in reversed(self._found):
                inside = b"/sandbox/%s" % group.encode()
                if second >= since and (not cgroup or cgroup.endswith(inside) or inside + b"/" in cgroup):
                    return victim
        return ""

    def _read(self) -> None:
        if self._log < 0:
            return
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._log, _RECORD_SIZE)
            except BrokenPipeError:
                continue  # The kernel has overwritten the next record.
            except OSError:
                return
            self._take(record)

    def _take(self, record: bytes) -> None:
        prefix, _, message = record.partition(b";")
        if found := _SUMMARY.search(message):
            self._groups[int(found[2])] = found[1]
        elif found := _KILLED.search(message):
            mib = (int(found[3]) + int(found[4])) // _KIB_IN_MIB
            name = found[2].decode("utf-8", "replace")
            seconds = int(prefix.split(b",")[2]) / 1_000_000
            self._found.append((seconds, self._groups.pop(int(found[1]), b""), f"{name} ({mib} MiB)"))
