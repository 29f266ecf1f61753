"""What measurements without a server share: times, tables, and what a process takes of the host's memory and disk."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

_KIB = 1024
_MIB = 1024 * 1024
_BLOCK = 512


@contextmanager
def timed(samples: list[float]) -> Generator[None]:
    """Add the seconds that the block takes to some samples."""
    began = time.monotonic()
    yield
    samples.append(time.monotonic() - began)


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    """How long something takes."""
    began = time.monotonic()
    await work()
    return time.monotonic() - began


def p50(samples: Iterable[float]) -> float:
    """The median."""
    return statistics.median(samples)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def memory(pid: int) -> dict[str, float]:
    """A process's memory in MiB: `private` to it, `proportional` (shared pages divided by who shares them), `resident`.

    Source: /proc/PID/smaps_rollup, proc(5).
    """
    found = dict.fromkeys(("Private_Clean", "Private_Dirty", "Pss", "Rss"), 0.0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) / _KIB
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {"private": private, "proportional": found["Pss"], "resident": found["Rss"]}


def resident() -> float:
    """Resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


def on_disk(*places: Path) -> float:
    """What files, and all below directories, take of the disk, in MiB: their blocks, so that holes do not count.

    A file with several names counts once.
    """
    seen: dict[tuple[int, int], int] = {}
    for place in places:
        for path in (place, *place.rglob("*")):
            status = path.lstat()
            if path.is_file() and not path.is_symlink():
                seen[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return sum(seen.values()) / _MIB


def written(place: Path) -> float | None:
    """What has been written since the boot to the device under a directory, in MiB, all that waits for it included.

    Other programs' writes count, too. Blocks for as long as disks do. None where there is no device, as in memory.

    Source: the kernel's Documentation/block/stat.rst.
    """
    device = place.stat().st_dev
    counters = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not counters.exists():
        return None
    os.sync()
    return int(counters.read_text().split()[6]) * _BLOCK / _MIB
