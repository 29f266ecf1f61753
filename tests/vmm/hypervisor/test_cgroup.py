"""Effects of cgroups on machines, on hosts that have cgroup v2, such as the emulated one."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.hypervisor.cgroup import Cgroups, Limits, NoCgroups
from vmm.hypervisor.delegation import find
from vmm.hypervisor.process import ProcessRef
from vmm.hypervisor.spawn import spawn

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LIMITS = Limits(memory=64 * MIB, cpus=2)


def test_sweeping_without_machines_finds_nothing(tmp_path: Path) -> None:
    assert Cgroups(base=tmp_path, controllers=()).sweep() == 0


real = find()
with_kernel = pytest.mark.skipif(
    isinstance(real, NoCgroups), reason=f"no cgroups here: {real.reason}" if isinstance(real, NoCgroups) else ""
)


@pytest.fixture
def cgroups() -> Generator[Cgroups]:
    """A cgroup of the host, with a process that represents the server."""
    assert isinstance(real, Cgroups)
    real.open()
    base = real.base / f"casemate-test-{secrets.token_hex(4)}"
    base.mkdir()
    server = subprocess.Popen(["sleep", "600"])
    try:
        (base / "cgroup.procs").write_text(str(server.pid))
        found = Cgroups(base=base, controllers=real.controllers)
        found.open()
        yield found
    finally:
        server.kill()
        server.wait()
        for place in (base / "server", base / "machines", base):
            if place.exists():
                place.rmdir()


def machine(directory: Path, *argv: str) -> ProcessRef:
    return spawn(list(argv), directory=directory, log=directory / "log")


@pytest.mark.kvm
@with_kernel
async def test_a_machine_has_limits_and_its_cgroup_is_removed_with_it(cgroups: Cgroups, tmp_path: Path) -> None:
    cgroups.make("one", LIMITS)
    place = cgroups.base / "machines" / "one"
    process = machine(tmp_path, "sleep", "600")
    cgroups.put("one", process.pid)
    cgroups.put("one", process.pid)
    assert (place / "cgroup.procs").read_text().split() == [str(process.pid)]
    assert (place / "memory.max").read_text() == f"{LIMITS.memory}\n"
    assert (place / "memory.oom.group").read_text() == "1\n"
    assert (place / "cpu.max").read_text() == "250000 100000\n"
    assert (place / "pids.max").read_text() == f"{LIMITS.pids}\n"
    assert cgroups.sweep() == 0, "what runs stays"
    await process.kill()
    assert cgroups.remove("one")
    assert cgroups.remove("one"), "removing twice is no error"
    assert not place.exists()


@pytest.mark.kvm
@with_kernel
async def test_a_machine_that_uses_too_much_memory_is_killed_alone_with_the_reason(
    cgroups: Cgroups, tmp_path: Path
) -> None:
    for name in ("greedy", "modest"):
        cgroups.make(name, LIMITS)
    modest = machine(tmp_path, "sleep", "600")
    greedy = machine(tmp_path, sys.executable, "-c", "held = b''\nwhile True: held += bytes([1]) * 1000000")
    cgroups.put("modest", modest.pid)
    cgroups.put("greedy", greedy.pid)
    with anyio.fail_after(PATIENCE_S):
        assert await greedy.ended() == -9
    assert cgroups.why_killed("greedy") == (
        "its virtual machine needed more memory on the host than its limit of 64 MiB"
    )
    assert modest.alive()
    assert cgroups.why_killed("modest") == ""
    await modest.kill()
    assert cgroups.sweep() == 2
    assert cgroups.why_killed("greedy") == ""


@pytest.mark.kvm
@with_kernel
async def test_a_machine_cannot_start_unlimited_threads(cgroups: Cgroups, tmp_path: Path) -> None:
    cgroups.make("forking", LIMITS)
    start = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=[600], daemon=True).start()"
    process = machine(tmp_path, sys.executable, "-c", start)
    cgroups.put("forking", process.pid)
    with anyio.fail_after(PATIENCE_S):
        assert await process.ended() == 1
    assert "can't start new thread" in (tmp_path / "log").read_text()
    assert cgroups.remove("forking")


@pytest.mark.kvm
@with_kernel
async def test_processes_left_in_a_machines_cgroup_are_killed(cgroups: Cgroups, tmp_path: Path) -> None:
    cgroups.make("leaving", LIMITS)
    for _ in range(2):
        cgroups.put("leaving", machine(tmp_path, "sleep", "600").pid)
    assert cgroups.remove("leaving")


@pytest.mark.kvm
@with_kernel
async def test_a_restarted_server_finds_its_machines_and_limits_them_again(cgroups: Cgroups, tmp_path: Path) -> None:
    cgroups.make("kept", LIMITS)
    process = machine(tmp_path, "sleep", "600")
    cgroups.put("kept", process.pid)
    again = Cgroups(base=cgroups.base, controllers=cgroups.controllers)
    again.open()
    again.make("kept", Limits(memory=32 * MIB, cpus=1))
    again.put("kept", process.pid)
    assert (cgroups.base / "machines" / "kept" / "memory.max").read_text() == f"{32 * MIB}\n"
    assert again.sweep() == 0
    await process.kill()
    assert again.remove("kept")


@pytest.mark.kvm
@with_kernel
async def test_the_systemd_unit_lets_the_next_server_start(cgroups: Cgroups, tmp_path: Path) -> None:
    """Systemd starts a server in the cgroup that the previous one has divided, which the kernel refuses."""
    cgroups.make("kept", LIMITS)
    process = machine(tmp_path, "sleep", "600")
    cgroups.put("kept", process.pid)
    newcomer = subprocess.Popen(["sleep", "600"])
    try:
        with pytest.raises(OSError, match="busy"):
            (cgroups.base / "cgroup.procs").write_text(str(newcomer.pid))
        unit = Path(__file__).parents[3] / "deploy" / "casemate.service"
        (command,) = (line for line in unit.read_text().splitlines() if line.startswith("ExecStopPost="))
        script = command.partition("-c ")[2].strip("'").replace("$$", "$")
        (cgroups.base / ".control").mkdir()
        moved = f'echo 0 >"{cgroups.base}/.control/cgroup.procs"; {script}'
        subprocess.run(["sh", "-c", moved], check=True, timeout=PATIENCE_S)
        (cgroups.base / ".control").rmdir()
        (cgroups.base / "cgroup.procs").write_text(str(newcomer.pid))
        cgroups.open()
        cgroups.make("kept", LIMITS)
        assert (cgroups.base / "machines" / "kept" / "memory.max").read_text() == f"{LIMITS.memory}\n"
    finally:
        newcomer.kill()
        newcomer.wait()
        await process.kill()
        assert cgroups.remove("kept")
