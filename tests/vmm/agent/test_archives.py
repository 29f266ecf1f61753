"""Trees as tar streams: packed and unpacked by the agent, and exchanged with other programs."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.vmm.agent.trees import MIB, grow, look, socket_at
from vmm.agent.packing import Packer
from vmm.agent.tally import Tally
from vmm.agent.tar import TarError
from vmm.agent.unpacking import Unpacker

ROOT = os.geteuid() == 0


def packed(top: Path) -> tuple[bytes, Tally]:
    packer = Packer(os.fsencode(top))
    return b"".join(packer.pieces()), packer.tally


def unpacked(data: bytes, into: Path, *, step: int = 100_000, inward: bool = False, owners: bool = False) -> Tally:
    fresh = not into.exists()
    into.mkdir(exist_ok=True)
    unpacker = Unpacker(os.open(into, os.O_RDONLY), fresh=fresh, inward=inward, owners=owners)
    try:
        for start in range(0, len(data), step):
            unpacker.feed(data[start : start + step])
        unpacker.finish()
    finally:
        unpacker.close()
    return unpacker.tally


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    grow(top)
    return top


@pytest.mark.parametrize("step", [1000, 512, 10_000_000])
def test_a_tree_is_the_same_after_packing_and_unpacking(tree: Path, tmp_path: Path, step: int) -> None:
    data, tally = packed(tree)
    assert len(data) < 6 * MIB, "holes were packed"
    back = unpacked(data, tmp_path / "back", step=step)
    assert look(tmp_path / "back") == look(tree)
    assert (tmp_path / "back" / "one").samefile(tmp_path / "back" / "sub" / "same")
    assert (tmp_path / "back" / "holes").stat().st_blocks * 512 < MIB
    assert (tally.files, tally.size, tally.skipped) == (back.files, back.size, back.skipped)
    assert tally.skipped == 0


def test_other_programs_unpack_what_the_agent_packs(tree: Path, tmp_path: Path) -> None:
    data, _ = packed(tree)
    by_tar = tmp_path / "tar"
    by_tar.mkdir()
    done = subprocess.run(["tar", "xp", "-C", by_tar], input=data, capture_output=True, check=True)
    assert [line for line in done.stderr.splitlines() if b"implausibly old" not in line] == []
    assert look(by_tar) == look(tree)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {os.path.normpath(name) for name in archive.getnames()} == set(look(tree))
        for member in archive:
            path = tree / member.name
            if member.isreg() and member.size < 2**24:
                file = archive.extractfile(member)
                assert file is not None
                assert file.read() == path.read_bytes()


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_the_agent_unpacks_what_tar_packs(tree: Path, tmp_path: Path, form: str) -> None:
    sparse = ["-S"] if form == "pax" else []
    hidden = ["--exclude=holes", "--exclude=empty"] if form != "pax" else []
    if form in {"ustar", "v7"}:
        hidden += ["--exclude=" + "[nl]" * 100 + "*", "--exclude=" + "a" * 90]
    command = ["tar", "c", f"--format={form}", *sparse, *hidden, "-C", str(tree), "."]
    data = subprocess.run(command, capture_output=True, check=form != "v7").stdout
    assert unpacked(data, tmp_path / "back").skipped == 0
    wanted, got = look(tree), look(tmp_path / "back")
    for path, facts in got.items():
        kind, mode, time, content = wanted[path]
        assert facts == (kind, mode, time if form == "pax" else time // 10**9 * 10**9, content), path
    assert len(got) > 15


def test_the_agent_unpacks_what_python_packs(tree: Path, tmp_path: Path) -> None:
    (tree / "holes").unlink()
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            archive.add(tree, ".")
        assert unpacked(file.getvalue(), tmp_path / f"back-{form}").skipped == 0
        assert set(look(tmp_path / f"back-{form}")) == set(look(tree))


def test_entries_that_cannot_be_packed_are_skipped_and_reported(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_text("file")
    socket_at(top / "socket")
    names = ["socket"]
    if ROOT:
        os.mknod(top / "device", 0o20600, os.makedev(1, 7))
        names.append("device")
    else:
        (top / "closed").write_text("closed")
        (top / "closed").chmod(0)
        (top / "shut").mkdir(mode=0)
        names += ["closed", "shut"]
    data, tally = packed(top)
    assert sorted(name for name, _ in tally.listed) == sorted(names)
    assert dict(tally.listed)["socket"] == "a socket"
    back = unpacked(data, tmp_path / "back")
    assert (back.skipped, back.listed) == (tally.skipped, tally.listed), "the archive does not list what was skipped"
    assert (tmp_path / "back" / "file").read_text() == "file"
    other = tmp_path / "other"
    other.mkdir()
    assert subprocess.run(["tar", "x", "-C", other], input=data, capture_output=True, check=True).stderr == b""
    assert (other / "file").read_text() == "file"


def test_files_that_the_kernel_generates_are_packed_with_their_real_length(tmp_path: Path) -> None:
    data, _ = packed(Path("/sys/class/net/lo"))
    unpacked(data, tmp_path / "back")
    assert (tmp_path / "back" / "mtu").read_bytes() == Path("/sys/class/net/lo/mtu").read_bytes()


def changed_while(top: Path, change: str) -> Iterable[bytes]:
    """Pack a tree and change a file as soon as its first piece is there."""
    packer = Packer(os.fsencode(top))
    stream = packer.pieces()
    yield next(stream)
    if change == "shorter":
        os.truncate(top / "file", 300_000)
    else:
        with (top / "file").open("ab") as file:
            file.write(b"y" * MIB)
    yield from stream


@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_a_file_that_changes_while_it_is_packed_does_not_break_the_stream(tmp_path: Path, change: str) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_bytes(b"x" * 3 * MIB)
    data = b"".join(changed_while(top, change))
    tally = unpacked(data, tmp_path / "back")
    got = (tmp_path / "back" / "file").read_bytes()
    assert len(got) == 3 * MIB
    if change == "longer":
        assert (tally.skipped, got) == (0, b"x" * 3 * MIB)
    else:
        assert tally.listed == [("file", "it was truncated while it was read; the rest is zeros")]


def test_directories_nested_too_deep_are_skipped_and_reported(tmp_path: Path) -> None:
    deep = tmp_path / "tree"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(450):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (deep / "file").write_text("file")
    data, tally = packed(deep)
    assert [reason for _, reason in tally.listed] == ["nested more than 400 directories deep"]
    assert unpacked(data, tmp_path / "back").skipped == 1
    assert (tmp_path / "back" / "file").read_text() == "file"
    subprocess.run(["rm", "-rf", deep, tmp_path / "back"], check=True)


def test_owners_are_restored_only_on_request(tmp_path: Path) -> None:
    if not ROOT:
        pytest.skip("needs root to give files away")
    top = tmp_path / "tree"
    (top / "dir").mkdir(parents=True)
    (top / "file").write_text("file")
    (top / "link").symlink_to("file")
    for name in ("dir", "file", "link"):
        os.chown(top / name, 1234, 2_500_000, follow_symlinks=False)
    (top / "file").chmod(0o4755)
    data, _ = packed(top)
    unpacked(data, tmp_path / "kept", owners=True)
    unpacked(data, tmp_path / "mine")
    for name in ("dir", "file", "link"):
        assert ((tmp_path / "kept" / name).lstat().st_uid, (tmp_path / "kept" / name).lstat().st_gid) == (1234, 2500000)
        assert (tmp_path / "mine" / name).lstat().st_uid == 0
    assert (tmp_path / "kept" / "file").stat().st_mode & 0o7777 == 0o4755
    assert (tmp_path / "mine" / "file").stat().st_mode & 0o7777 == 0o755


def test_a_truncated_archive_is_refused_and_leaves_no_partial_file(tree: Path, tmp_path: Path) -> None:
    data, _ = packed(tree)
    for number, end in enumerate((0, 100, 512, 2_000_000, len(data) - 1024)):
        into = tmp_path / f"cut-{number}"
        with pytest.raises(TarError, match="archive is truncated"):
            unpacked(data[:end], into)
        for path in into.rglob("*"):
            assert not path.name.startswith(".casemate-")


@pytest.mark.parametrize("data", [b"x" * 1024, b"\x1f\x8b" + bytes(1000), os.urandom(4096)])
def test_data_that_is_not_an_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TarError, match="checksum"):
        unpacked(data, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []
