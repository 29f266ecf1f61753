from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.hypervisor.cgroup import Cgroups, Limits, NoCgroups
from vmm.hypervisor.confinement import UNCONFINED, Confinement
from vmm.hypervisor.process import orphans
from vmm.hypervisor.users import NoUsers, Users

pytestmark = pytest.mark.anyio

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as others")
LIMITS = Limits(memory=64 * 1024 * 1024, cpus=1)
NO_CGROUPS = NoCgroups(reason="none here", fix="")
NO_USERS = NoUsers(reason="none here")
OWN_USERS = Confinement(cgroups=NO_CGROUPS, users=Users())
NAME = "0123456789abcdef01234567"


@pytest.fixture
def place() -> Generator[Path]:
    """A machine's directory below one that other users cannot enter."""
    root = Path(tempfile.mkdtemp(prefix="casemate-confinement-"))
    directory = root / NAME
    directory.mkdir(mode=0o700)
    yield directory
    shutil.rmtree(root)


async def run(
    confinement: Confinement, place: Path, script: str, *, reads: tuple[str, ...] = (), writes: tuple[str, ...] = ()
) -> tuple[int | None, str]:
    """Run a shell script instead of a hypervisor; return its status and its output."""
    process = await confinement.spawn(
        ["/bin/sh", "-c", script],
        directory=place,
        log=place / "log",
        limits=LIMITS,
        reads=[place / name for name in reads],
        writes=[place / name for name in writes],
    )
    with anyio.fail_after(PATIENCE_S):
        status = await process.ended()
    await confinement.release(place)
    return status, (place / "log").read_text()


@as_root
async def test_a_hypervisor_runs_as_its_own_user_and_can_write_to_its_disk(place: Path) -> None:
    status, said = await run(OWN_USERS, place, "id -u; id -G; echo data >disk", writes=("disk",))
    uid = Users().of(place).uid
    assert (status, said) == (0, f"{uid}\n{uid}\n")
    assert (place / "disk").read_text() == "data\n"


@as_root
async def test_a_compromised_hypervisor_cannot_replace_files_that_the_server_reads(place: Path) -> None:
    (place / "machine.json").write_text("of the server")
    (place / "machine.json").chmod(0o600)
    script = "cat machine.json; rm -f machine.json disk; ln -sf /etc/shadow disk; mv disk other; chmod 777 ."
    _, said = await run(OWN_USERS, place, f"{script}; touch socket", writes=("disk",))
    assert "of the server" not in said
    assert (place / "machine.json").read_text() == "of the server"
    assert (place / "disk").stat().st_uid == 0
    assert not (place / "disk").is_symlink()
    assert (place / "socket").exists(), "sockets and the like it can make"


@as_root
async def test_a_compromised_hypervisor_cannot_find_other_machines(place: Path) -> None:
    other = place.parent / "76543210fedcba9876543210"
    other.mkdir(mode=0o700)
    (other / "disk").write_text("somebody else's")
    Users().give(other, reads=[], writes=[other / "disk"])
    place.parent.chmod(0o711)
    status, said = await run(OWN_USERS, place, f"cat {other}/disk; ls {other}; kill -0 {os.getpid()}")
    assert status != 0
    assert "somebody else's" not in said
    assert said.count("denied") + said.count("permitted") >= 2


@as_root
async def test_a_machine_whose_files_its_user_cannot_reach_runs_as_root_with_a_warning(place: Path) -> None:
    (place / "base").symlink_to("/etc/hostname")
    with capture_logs() as logs:
        status, said = await run(OWN_USERS, place, "id -u; cat base >/dev/null", reads=("base",))
    assert (status, said) == (0, "0\n")
    assert [(entry["event"], entry["machine"]) for entry in logs] == [("machine runs as root", NAME)]


async def test_a_missing_program_is_reported(place: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot be started: .*/no/such/program"):
        await UNCONFINED.spawn(["/no/such/program"], directory=place, log=place / "log", limits=LIMITS)


async def test_a_machine_that_cannot_be_moved_into_its_cgroup_does_not_run(place: Path) -> None:
    # Not a cgroup: it lacks the kernel's files.
    base = place.parent / "cgroup"
    (base / "machines").mkdir(parents=True)
    confinement = Confinement(cgroups=Cgroups(base=base, controllers=()), users=NO_USERS)
    (base / "machines" / NAME).mkdir()
    (base / "machines" / NAME / "cgroup.procs").mkdir()  # cannot be written to
    with pytest.raises(Unavailable, match="cannot be started"), capture_logs():
        await confinement.spawn(["sleep", "60"], directory=place, log=place / "log", limits=LIMITS)
    assert orphans(place.parent) == {}


async def test_files_in_memory_do_not_count_against_a_machines_memory_limit(tmp_path: Path) -> None:
    """With a memory limit, a disk there would get its machine killed before it is half full."""
    base = tmp_path / "cgroup"
    name = f"casemate-confinement-{os.getpid()}"
    for place in (tmp_path / name, Path("/dev/shm", name)):
        cgroup = base / "machines" / f"{place.parent.name}-{name}"
        cgroup.mkdir(parents=True)
        place.mkdir()
        try:
            confinement = Confinement(cgroups=Cgroups(base=base, controllers=("memory",)), users=NO_USERS)
            process = await confinement.spawn(["sleep", "60"], directory=place, log=place / "log", limits=LIMITS)
            await process.kill()
        finally:
            shutil.rmtree(place)
        in_memory = kind_of(place.parent) in {"tmpfs", "overlayfs", "ramfs"}
        assert (cgroup / "memory.max").read_text() == ("max" if in_memory else str(LIMITS.memory))


def kind_of(place: Path) -> str:
    return subprocess.run(["stat", "-fc%T", place], capture_output=True, text=True, check=True).stdout.strip()


async def test_a_cgroup_that_cannot_be_divided_is_not_used_and_logged(tmp_path: Path) -> None:
    confinement = Confinement(cgroups=Cgroups(base=tmp_path / "gone", controllers=("memory",)), users=NO_USERS)
    with capture_logs() as logs:
        used = confinement.in_use()
    assert isinstance(used.cgroups, NoCgroups)
    assert "cannot be divided: No such file or directory" in used.cgroups.reason
    assert [entry["event"] for entry in logs] == ["machines have no cgroups", "machines have no users of their own"]


async def test_without_confinement_all_calls_are_no_ops(place: Path) -> None:
    process = await UNCONFINED.spawn(["sleep", "60"], directory=place, log=place / "log", limits=LIMITS)
    await UNCONFINED.adopt(process, place, LIMITS)
    assert await UNCONFINED.why_killed(place) == ""
    assert await UNCONFINED.sweep() == 0
    await process.kill()
    await UNCONFINED.release(place)
    await UNCONFINED.make_directory(place / "saved")
    await UNCONFINED.reclaim(place / "saved")
