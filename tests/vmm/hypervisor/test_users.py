from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from vmm.errors import Unavailable
from vmm.hypervisor.users import NoUsers, User, Users, find, reclaim

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand files to others")
NAME = "0123456789abcdef01234567"
ALL = "CapEff:\t000001ffffffffff\n"


@pytest.fixture
def place() -> Generator[Path]:
    """A machine's directory below ones that all users may enter."""
    root = Path(tempfile.mkdtemp(prefix="casemate-users-"))
    root.chmod(0o711)
    directory = root / NAME
    directory.mkdir(mode=0o700)
    yield directory
    shutil.rmtree(root)


def host(root: Path, *, capabilities: str = ALL, uid_map: str = "0 0 4294967295\n") -> tuple[Path, Path]:
    (root / "status").write_text(f"Name:\tserver\n{capabilities}")
    (root / "uid_map").write_text(uid_map)
    return root / "status", root / "uid_map"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_machine_always_has_the_same_user_and_no_other_machine_has_it() -> None:
    users = Users(groups=(7,))
    user = users.of(Path("/somewhere", NAME))
    assert user == users.of(Path("/elsewhere", NAME)) == User(uid=user.uid, groups=(7,))
    others = {users.of(Path(f"{number:024x}")).uid for number in range(1000)}
    assert len(others) == 1000
    assert all(0x7000_0000 <= uid < 0x7FFE_0000 for uid in others)


def test_other_directories_get_users_by_their_path() -> None:
    users = Users()
    assert users.of(Path("/snapshots/one/settling")) != users.of(Path("/snapshots/two/settling"))


@pytest.mark.skipif(os.geteuid() == 0, reason="this is root")
def test_a_server_that_is_not_root_cannot_assign_users() -> None:
    found = find()
    assert isinstance(found, NoUsers)
    assert "not root" in found.reason


@as_root
def test_root_with_all_capabilities_can_assign_users(tmp_path: Path) -> None:
    assert find(None, *host(tmp_path)) == Users()


@as_root
def test_root_without_a_capability_learns_which_is_missing(tmp_path: Path) -> None:
    found = find(None, *host(tmp_path, capabilities="CapEff:\t00000000a80425fb\n"))
    assert isinstance(found, NoUsers)
    assert found.reason == "the server is root without CAP_SYS_PTRACE"


@as_root
def test_root_of_a_small_user_namespace_cannot_assign_users(tmp_path: Path) -> None:
    found = find(None, *host(tmp_path, uid_map="0 100000 65536\n"))
    assert isinstance(found, NoUsers)
    assert "namespace" in found.reason


@as_root
def test_the_device_is_opened_through_its_group(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o660)
    os.chown(device, 0, 104)
    assert find(device, *host(tmp_path)) == Users(groups=(104,))
    device.chmod(0o666)
    assert find(device, *host(tmp_path)) == Users()


@as_root
def test_a_device_that_only_root_can_open_is_reported_with_the_fix(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o660)
    found = find(device, *host(tmp_path))
    assert isinstance(found, NoUsers)
    assert found.fix == f"sudo chgrp kvm {device} && sudo chmod 0660 {device}"


@as_root
def test_a_machine_writes_its_own_files_and_reads_shared_ones(place: Path) -> None:
    image, memory = place.parent / "image", place.parent / "memory"
    for shared in (image, memory):
        shared.write_text("of many")
        shared.chmod(0o600)
    (place / "base").hardlink_to(image)
    (place / "mapped").hardlink_to(memory)
    (place / "machine.json").write_text("secret")
    (place / "machine.json").chmod(0o600)
    (place / "parts").mkdir(mode=0o700)
    (place / "parts" / "state").write_text("saved")
    reads, writes = [place / "base", place / "parts"], [place / "disk", place / "mapped"]
    users = Users()
    users.give(place, reads=reads, writes=writes)
    users.give(place, reads=reads, writes=writes)
    gid = users.of(place).uid
    assert (place.stat().st_uid, place.stat().st_gid, mode(place)) == (0, gid, 0o1770)
    assert ((place / "disk").stat().st_uid, (place / "disk").stat().st_gid, mode(place / "disk")) == (0, gid, 0o660)
    assert (image.stat().st_gid, mode(image)) == (0, 0o644)
    assert (memory.stat().st_gid, mode(memory)) == (0, 0o666)
    assert mode(place / "parts") == 0o755
    assert mode(place / "parts" / "state") & 0o444 == 0o444
    assert ((place / "machine.json").stat().st_gid, mode(place / "machine.json")) == (0, 0o600)


@as_root
def test_a_file_that_is_already_readable_keeps_its_ctime(place: Path) -> None:
    image = place.parent / "image"
    image.touch(mode=0o444)
    (place / "base").hardlink_to(image)
    before = image.stat().st_ctime_ns
    Users().give(place, reads=[place / "base"], writes=[])
    assert image.stat().st_ctime_ns == before


def test_a_program_that_not_all_users_can_run_is_an_obstacle(place: Path) -> None:
    program = place.parent / "program"
    program.touch()
    program.chmod(0o700)
    assert str(program) in Users().obstacle(place, str(program), [])
    program.chmod(0o755)
    assert Users().obstacle(place, str(program), [place / "disk"]) == ""


def test_a_file_that_cannot_be_hard_linked_is_an_obstacle(place: Path) -> None:
    (place / "base").symlink_to("/elsewhere/base")
    assert "/elsewhere/base" in Users().obstacle(place, "/bin/sh", [place / "base"])
    assert "not in the machine's directory" in Users().obstacle(place, "/bin/sh", [Path("/elsewhere/base")])


@as_root
def test_the_server_becomes_the_owner_of_files_that_a_machine_wrote(place: Path) -> None:
    users = Users()
    users.make_directory(place / "saved")
    assert (place / "saved").stat().st_gid == users.of(place).uid
    written = place / "saved" / "state"
    written.touch()
    os.chown(written, 12345, 12345)
    reclaim(place / "saved")
    for path in (place / "saved", written):
        assert (path.stat().st_uid, path.stat().st_gid, mode(path) & 0o077) == (0, 0, 0)


@as_root
@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "directory"])
def test_only_ordinary_files_are_taken_over_from_a_machine(place: Path, kind: str) -> None:
    others = place.parent / "others"
    others.write_text("somebody else's memory")
    Users().make_directory(place / "saved")
    strange = place / "saved" / "ram"
    match kind:
        case "link":
            strange.symlink_to(others)
        case "second name":
            strange.hardlink_to(others)
        case "pipe":
            os.mkfifo(strange)
        case _:
            strange.mkdir()
    with pytest.raises((Unavailable, OSError), match=r"only ordinary files|symbolic"):
        reclaim(place / "saved")
