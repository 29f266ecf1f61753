"""Real machines with all of the host's confinement."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.vmm.hypervisor.ladder import said
from tests.waiting import PATIENCE_S
from vmm.errors import CasemateError, LinkError
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.cgroup import Cgroups, NoCgroups, name_of
from vmm.hypervisor.confinement import Confinement
from vmm.hypervisor.detect import kvm
from vmm.hypervisor.users import NoUsers
from vmm.machines.machine import Machine

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.kvm]

host = Confinement.find(kvm=kvm().usable)
with_users = pytest.mark.skipif(
    isinstance(host.users, NoUsers), reason=host.users.reason if isinstance(host.users, NoUsers) else ""
)
with_cgroups = pytest.mark.skipif(
    isinstance(host.cgroups, NoCgroups), reason=host.cgroups.reason if isinstance(host.cgroups, NoCgroups) else ""
)


def cgroup_of(machine: Machine) -> Path:
    """Return the cgroup of a machine's process."""
    assert isinstance(host.cgroups, Cgroups)
    path = Path(f"/proc/{machine.running.process.pid}/cgroup").read_text().rpartition("0::")[2].strip()
    assert path.endswith(f"/machines/{name_of(machine.directory)}")
    return host.cgroups.base / "machines" / name_of(machine.directory)


@with_users
async def test_a_machine_runs_as_its_own_user_which_owns_none_of_its_files(machine_cloned: Machine) -> None:
    status = Path(f"/proc/{machine_cloned.running.process.pid}/status").read_text()
    assert not isinstance(host.users, NoUsers)
    uid = host.users.of(machine_cloned.directory).uid
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert machine_cloned.disk.stat().st_uid == 0
    assert await said(machine_cloned, "echo written > /kept && sync && cat /kept") == "written"


@with_cgroups
async def test_a_machine_has_a_cgroup_as_long_as_it_runs(driver: Hypervisor, machine_cloned: Machine) -> None:
    cgroup = cgroup_of(machine_cloned)
    assert (cgroup / "cpu.max").read_text() == "150000 100000\n"
    await driver.adopt(machine_cloned.running, machine_cloned.hardware)
    assert cgroup_of(machine_cloned) == cgroup
    assert str(machine_cloned.running.process.pid) in (cgroup / "cgroup.procs").read_text().split()
    await machine_cloned.stop()
    assert not cgroup.exists()


@with_cgroups
async def test_a_machine_killed_at_its_memory_limit_reports_that(machine_cloned: Machine) -> None:
    (cgroup_of(machine_cloned) / "memory.max").write_text(str(8 * 1024 * 1024))
    reason = ""
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_work, machine_cloned)
            reason = await machine_cloned.ended()
            tasks.cancel_scope.cancel()
    assert reason == "its virtual machine needed more memory on the host than its limit of 8 MiB"


async def _work(machine: Machine) -> None:
    try:
        await said(machine, "head -c 100000000 /dev/zero > /dev/shm/much")
    except CasemateError as error:
        assert isinstance(error, LinkError), "its machine ends in the middle"
