"""How much memory there is for machines: the host's, or less where a cgroup limits the server, as a container does.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux 6.1; cgroups(7) and proc(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024
_KIB = 1024
_PROC = Path("/proc")
# What v1 reports where there is no limit: the largest number of pages, in bytes.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Memory in MiB.

    Attributes:
        total: All of it.
        available: What can be had without harm to anybody.
        source: Whose it is, as the beginning of a sentence.
    """

    total: int
    available: int
    source: str = "The host"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """The names that a version of cgroups has for things."""

    limit: str
    usage: str
    cache: tuple[str, ...]
    mapped: str


# A page of a file that a machine has mapped is its memory, however little the kernel minds to lose it.
_V1 = _Version(
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    cache=("total_active_file", "total_inactive_file"),
    mapped="total_mapped_file",
)
_V2 = _Version(
    limit="memory.max",
    usage="memory.current",
    cache=("active_file", "inactive_file", "slab_reclaimable"),
    mapped="file_mapped",
)


def read_memory(proc: Path = _PROC) -> HostMemory:
    """The memory of the host or of the tightest cgroup that this process is in, whichever has less.

    Args:
        proc: The kernel's files about processes.
    """
    host = _of_host((proc / "meminfo").read_text())
    found = [host]
    for cgroup, version in _cgroups((proc / "self/mountinfo").read_text(), (proc / "self/cgroup").read_text()):
        limited = _of_cgroup(cgroup, version)
        if limited is not None and limited.total < host.total:
            found.append(limited)
    tightest = min(found, key=lambda memory: memory.available)
    return HostMemory(total=min(memory.total for memory in found), available=tightest.available, source=tightest.source)


def _of_host(meminfo: str) -> HostMemory:
    fields = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in meminfo.splitlines())}
    return HostMemory(
        total=fields["MemTotal"] * _KIB // _MIB, available=fields.get("MemAvailable", fields["MemFree"]) * _KIB // _MIB
    )


def _cgroups(mountinfo: str, own: str) -> Iterator[tuple[Path, _Version]]:
    """The cgroups of a process that may limit its memory, from its own up to the topmost that it sees.

    Args:
        mountinfo: The kernel's list of the process's mounts.
        own: Its list of the process's cgroups.
    """
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            version, path = _V2, _own(own, "")
        elif kind == "cgroup" and "memory" in options.split(","):
            version, path = _V1, _own(own, "memory")
        else:
            continue
        if path is None:
            continue
        mounted = Path(place)
        # In a container without a namespace of cgroups, the path is the host's, and its root is mounted.
        here = mounted / path.relative_to(root) if path.is_relative_to(root) else mounted
        yield here, version
        yield from ((step, version) for step in here.parents if step.is_relative_to(mounted))


def _own(own: str, controller: str) -> Path | None:
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(path)
    return None


def _of_cgroup(cgroup: Path, version: _Version) -> HostMemory | None:
    try:
        limit = (cgroup / version.limit).read_text().strip()
        usage = int((cgroup / version.usage).read_text())
        lines = [line.split() for line in (cgroup / "memory.stat").read_text().splitlines()]
    except OSError:  # the topmost has no such files, nor has one without the controller
        return None
    if limit == "max" or int(limit) >= _NO_LIMIT:
        return None
    stat = {name: int(value) for name, value in lines}
    cache = max(0, sum(stat.get(name, 0) for name in version.cache) - stat.get(version.mapped, 0))
    return HostMemory(
        total=int(limit) // _MIB,
        available=max(0, int(limit) - usage + min(cache, usage)) // _MIB,
        source="The server's container, or service,",
    )
