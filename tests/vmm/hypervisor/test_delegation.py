"""Which cgroup a server may divide, from what the kernel shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.hypervisor.cgroup import WANTED, Cgroups, NoCgroups
from vmm.hypervisor.delegation import find


def tree(root: Path, path: str, *, controllers: str = "cpu memory pids", procs: str = "", top: bool = False) -> Path:
    """A cgroup in the kernel's form, made of ordinary files."""
    place = root / "cgroup" / path.strip("/")
    place.mkdir(parents=True)
    (place / "cgroup.controllers").write_text(controllers)
    (place / "cgroup.procs").write_text(procs)
    (place / "cgroup.subtree_control").write_text("")
    if not top:
        (place / "cgroup.type").write_text("domain")
    return place


def seen(root: Path, path: str, others: str = "") -> Cgroups | NoCgroups:
    mounts, own = root / "mounts", root / "own"
    mounts.write_text(f"proc /proc proc rw 0 0\ncgroup2 {root}/cgroup cgroup2 rw,nosuid 0 0\n{others}")
    own.write_text(f"4:memory:/elsewhere\n0::{path}\n")
    return find(mounts, own)


def test_the_servers_own_cgroup_is_divided(tmp_path: Path) -> None:
    place = tree(tmp_path, "/system.slice/casemate.service", procs=f"{os.getpid()}\n")
    assert seen(tmp_path, "/system.slice/casemate.service") == Cgroups(base=place, controllers=WANTED)


def test_a_server_that_was_moved_finds_the_same_cgroup_again(tmp_path: Path) -> None:
    place = tree(tmp_path, "/casemate.service")
    tree(tmp_path, "/casemate.service/server")
    assert seen(tmp_path, "/casemate.service/server") == Cgroups(base=place, controllers=WANTED)


def test_controllers_that_the_parent_does_not_delegate_are_not_used(tmp_path: Path) -> None:
    place = tree(tmp_path, "/user", controllers="memory pids")
    assert seen(tmp_path, "/user") == Cgroups(base=place, controllers=("memory", "pids"))


def test_without_controllers_there_is_no_cgroup(tmp_path: Path) -> None:
    tree(tmp_path, "/user", controllers="")
    found = seen(tmp_path, "/user")
    assert isinstance(found, NoCgroups)
    assert "may limit none of memory, cpu, pids" in found.reason
    assert "Delegate=yes" in found.fix


def test_a_host_with_cgroup_v1_gets_a_hint_how_to_enable_v2(tmp_path: Path) -> None:
    tree(tmp_path, "/", controllers="hugetlb", top=True)
    found = seen(tmp_path, "/", "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n")
    assert isinstance(found, NoCgroups)
    assert "unified_cgroup_hierarchy" in found.fix


def test_a_cgroup_that_this_user_may_not_write_to_is_left_alone(tmp_path: Path) -> None:
    place = tree(tmp_path, "/session.scope", procs=f"{os.getpid()}\n")
    (place / "cgroup.subtree_control").unlink()  # no mode would stop root
    found = seen(tmp_path, "/session.scope")
    assert isinstance(found, NoCgroups)
    assert "this user may not divide the cgroup" in found.reason


def test_a_cgroup_with_other_programs_is_left_alone(tmp_path: Path) -> None:
    tree(tmp_path, "/session.scope", procs=f"1\n{os.getpid()}\n")
    found = seen(tmp_path, "/session.scope")
    assert isinstance(found, NoCgroups)
    assert "1 other programs share the server's cgroup /session.scope" in found.reason
    assert "systemd-run --user --scope" in found.fix


def test_a_cgroup_delegated_by_systemd_is_divided_with_all_its_processes(tmp_path: Path) -> None:
    place = tree(tmp_path, "/casemate.service", procs=f"1\n{os.getpid()}\n")
    try:
        os.setxattr(place, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this file system has no attributes of users: {error.strerror}")
    assert isinstance(seen(tmp_path, "/casemate.service"), Cgroups)


def test_the_root_cgroup_of_a_container_is_divided_with_all_its_processes(tmp_path: Path) -> None:
    tree(tmp_path, "/", procs=f"1\n{os.getpid()}\n")
    assert isinstance(seen(tmp_path, "/"), Cgroups)


def test_a_process_with_an_invisible_cgroup_has_none(tmp_path: Path) -> None:
    tree(tmp_path, "/", procs=f"{os.getpid()}\n")
    found = seen(tmp_path, "/../elsewhere")
    assert isinstance(found, NoCgroups)
    assert "sees no cgroup v2" in found.reason
