"""How much memory there is where a cgroup limits the server, in both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.ids import new_id
from vmm.errors import HostExhausted
from vmm.sandboxes.host_memory import read_memory
from vmm.sandboxes.limits import HostReserve

MIB = 1024 * 1024
V1 = Path("/sys/fs/cgroup/memory")
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\n"
Group = Callable[..., None]


class Kernel:
    """The kernel's files about one process, and cgroups like the kernel's."""

    def __init__(self, at: Path) -> None:
        self.proc, self.cgroups = at / "proc", at / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text(MEMINFO)
        self.own(mounts="", cgroups="")

    def own(self, *, mounts: str, cgroups: str) -> None:
        (self.proc / "self" / "mountinfo").write_text(mounts)
        (self.proc / "self" / "cgroup").write_text(cgroups)

    def v2(self, path: str, limit: str, *, usage: int, cache: int = 0, mapped: int = 0) -> None:
        place = self.cgroups / path
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{usage * MIB}\n")
        lines = {"anon": 1, "active_file": cache * MIB // 2, "inactive_file": cache * MIB // 2, "slab_reclaimable": 0}
        text = "".join(f"{name} {value}\n" for name, value in {**lines, "file_mapped": mapped * MIB}.items())
        (place / "memory.stat").write_text(text)

    def v1(self, path: str, limit: int, *, usage: int, cache: int = 0) -> None:
        place = self.cgroups / path
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (place / "memory.usage_in_bytes").write_text(f"{usage * MIB}\n")
        (place / "memory.stat").write_text(
            f"active_file 7\ntotal_active_file {cache * MIB}\ntotal_inactive_file 0\ntotal_mapped_file 0\n"
        )


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_without_a_limit_the_hosts_memory_counts(kernel: Kernel) -> None:
    found = read_memory(kernel.proc)
    assert (found.total, found.available, found.source) == (16384, 8192, "The host")
    kernel.v2("", "max", usage=100)
    kernel.own(mounts=f"24 18 0:21 / {kernel.cgroups} rw - cgroup2 cgroup2 rw", cgroups="0::/\n")
    assert read_memory(kernel.proc) == found


def test_a_container_with_its_own_namespace_is_limited_by_its_mounted_cgroup(kernel: Kernel) -> None:
    kernel.v2("", str(2048 * MIB), usage=1500, cache=600, mapped=200)
    kernel.own(mounts=f"24 18 0:21 / {kernel.cgroups} ro - cgroup2 cgroup2 rw", cgroups="0::/\n")
    found = read_memory(kernel.proc)
    # What machines have mapped is no cache, though the kernel could write it to the disk.
    assert (found.total, found.available) == (2048, 2048 - 1500 + 400)


def test_the_limit_of_a_parent_cgroup_counts(kernel: Kernel) -> None:
    kernel.v2("casemate.service/server", "max", usage=100)
    kernel.v2("casemate.service", str(1024 * MIB), usage=900)
    kernel.v2("", "max", usage=4000)
    mounts = f"24 18 0:21 / {kernel.cgroups} rw shared:9 - cgroup2 cgroup2 rw,nsdelegate"
    kernel.own(mounts=mounts, cgroups="0::/casemate.service/server\n")
    found = read_memory(kernel.proc)
    assert (found.total, found.available) == (1024, 124)
    assert "container" in found.source


def test_a_container_on_cgroup_v1_sees_its_cgroup_under_the_hosts_name(kernel: Kernel) -> None:
    kernel.v1("", 512 * MIB, usage=600, cache=200)
    mounts = (
        f"40 31 0:37 /docker/0123 {kernel.cgroups}-cpu ro - cgroup cgroup rw,cpu\n"
        f"35 31 0:32 /docker/0123 {kernel.cgroups} ro master:11 - cgroup cgroup rw,memory\n"
    )
    kernel.own(mounts=mounts, cgroups="5:cpu:/docker/0123\n4:memory:/docker/0123\n0::/docker/0123\n")
    found = read_memory(kernel.proc)
    assert (found.total, found.available) == (512, 112)


def test_no_limit_in_cgroup_v1_is_a_very_large_number(kernel: Kernel) -> None:
    kernel.v1("", 9223372036854771712, usage=600)
    kernel.own(mounts=f"35 31 0:32 / {kernel.cgroups} rw - cgroup cgroup rw,memory", cgroups="4:memory:/\n")
    assert read_memory(kernel.proc).source == "The host"


def test_a_limit_above_the_hosts_memory_is_ignored(kernel: Kernel) -> None:
    kernel.v2("", str(2**45), usage=1)
    kernel.own(mounts=f"24 18 0:21 / {kernel.cgroups} rw - cgroup2 cgroup2 rw", cgroups="0::/\n")
    assert read_memory(kernel.proc).total == 16384


def test_a_reserve_larger_than_the_containers_memory_is_refused(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.v2("", str(1024 * MIB), usage=900)
    kernel.own(mounts=f"24 18 0:21 / {kernel.cgroups} rw - cgroup2 cgroup2 rw", cgroups="0::/\n")
    monkeypatch.setattr("vmm.sandboxes.limits.read_memory", lambda: read_memory(kernel.proc))
    with pytest.raises(HostExhausted, match="The server's container or service has 124 MiB of memory available; 704"):
        HostReserve(disk=1).check([kernel.proc], 0, 256)
    with pytest.raises(
        HostExhausted, match=r"mem must be at most 136 MiB \(1400 of 1536 MiB are promised to sandboxes\), got 256"
    ):
        HostReserve(memory=1, machine=1, disk=1).check([kernel.proc], 1400, 256)


@pytest.mark.skipif(not os.access(V1 / "memory.limit_in_bytes", os.W_OK), reason="needs the memory cgroups of v1")
def test_a_real_limit_applies_to_processes_below_it() -> None:
    group = V1 / new_id()
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(256 * MIB))
        script = (
            "from vmm.sandboxes import host_memory as m; found = m.read_memory(); print(found.total, found.available)"
        )
        enter = f"echo 0 > {group}/cgroup.procs && exec {sys.executable} -c '{script}'"
        done = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, check=True, timeout=30)
        total, available = map(int, done.stdout.split())
        assert total == 256
        assert 100 < available < 256
    finally:
        group.rmdir()
