"""Metrics of the guest: memory, disk, processors and clock as its kernel reports them."""

from __future__ import annotations

import os
import time

from .arguments import Arguments
from .channel import Channel
from .procfs import processes, read

_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_IDLE_FIELDS = (3, 4)


class Metrics:
    """Reads metrics from /proc, through descriptors, since programs in the sandbox may unmount it.

    Args:
        proc: A descriptor of the agent's own /proc.
        inner: A descriptor of the /proc that the sandbox's programs see.
    """

    def __init__(self, proc: int, inner: int) -> None:
        self._proc = proc
        self._inner = inner

    def read(self, channel: Channel, arguments: Arguments) -> None:
        """Send memory and disk in bytes, times in milliseconds."""
        del arguments
        memory = {line.split(b":")[0]: line.split()[1] for line in read(self._proc, "meminfo").splitlines() if line}
        disk = os.statvfs(b"/")
        ticks = [int(field) for field in read(self._proc, "stat").split(b"\n", 1)[0].split()[1:9]]
        busy = sum(ticks) - sum(ticks[field] for field in _IDLE_FIELDS)
        channel.send_result(
            {
                "uptime_ms": int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000),
                "memory_total": int(memory[b"MemTotal"]) * 1024,
                "memory_available": int(memory[b"MemAvailable"]) * 1024,
                "disk_total": disk.f_blocks * disk.f_frsize,
                "disk_free": disk.f_bavail * disk.f_frsize,
                "cpu_used_ms": busy * _TICK_MS,
                "processes": len(processes(self._inner)),
                "agent_memory": int(read(self._proc, "self/statm").split()[1]) * _PAGE,
            }
        )
