"""Archives in files: made next to what they contain, and unpacked as a whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vmm.agent.archive_calls import compress, extract, left_behind
from tests.vmm.agent.test_hostile_archives import Archive
from tests.vmm.agent.trees import MIB, grow, look, socket_at
from vmm.agent import archive_limits, tar
from vmm.agent.refusals import FULL, INVALID, MISSING, REFUSED, RefusalError

ROOT = os.geteuid() == 0
TARS = ("tar", "tar.gz", "tar.bz2")
FORMS = (*TARS, "zip")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    grow(top)
    return top


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory with two files."""
    top = tmp_path / "small"
    (top / "sub").mkdir(parents=True)
    (top / "one").write_bytes(os.urandom(300_000))
    (top / "sub" / "two").write_text("two")
    return top


def refused(code: str, *arguments: str | Path, call: object = extract) -> str:
    """Make a call that must be refused; its reason."""
    assert callable(call)
    with pytest.raises(RefusalError) as caught:
        call(*arguments)
    assert caught.value.code == code, caught.value.message
    return caught.value.message


@pytest.mark.parametrize("form", TARS)
def test_a_tree_is_the_same_after_packing_and_unpacking(tree: Path, tmp_path: Path, form: str) -> None:
    done = compress(tree, form)
    archive = Path(f"{tree}.{form}")
    assert (done["archive"], done["archive_size"]) == (str(archive), archive.stat().st_size)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o644
    back = extract(archive, tmp_path / "new" / "back")
    assert (back["files"], back["size"], back["skipped"]) == (done["files"], done["size"], 0)
    assert look(tmp_path / "new" / "back" / "tree") == look(tree)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("form", TARS)
def test_tar_unpacks_what_the_agent_packs_and_the_other_way_round(tree: Path, tmp_path: Path, form: str) -> None:
    compress(tree, form)
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "xpf", f"{tree}.{form}", "-C", tmp_path / "there"], check=True, stderr=subprocess.DEVNULL)
    assert look(tmp_path / "there" / "tree") == look(tree)
    made = tmp_path / f"made.{form}"
    subprocess.run(["tar", "-c", "-a", "-f", made, "-S", "--format=pax", "-C", tmp_path, "tree"], check=True)
    assert extract(made, tmp_path / "back")["skipped"] == 0
    assert look(tmp_path / "back" / "tree") == look(tree)


@pytest.mark.parametrize("form", FORMS)
def test_a_single_file_is_packed_under_its_name(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_text("content")
    assert compress(f"{tmp_path}/file/", form)["files"] == 1
    extract(tmp_path / f"file.{form}", tmp_path / "back")
    assert [(path.name, path.read_text()) for path in (tmp_path / "back").iterdir()] == [("file", "content")]


@pytest.mark.parametrize(("suffix", "form"), [(".tgz", "tar.gz"), (".TBZ2", "tar.bz2"), (".Tar.Gz", "tar.gz")])
def test_short_suffixes_and_capitals_say_the_format_too(small: Path, tmp_path: Path, suffix: str, form: str) -> None:
    compress(small, form)
    Path(f"{small}.{form}").rename(tmp_path / f"x{suffix}")
    assert extract(tmp_path / f"x{suffix}", tmp_path / "back")["files"] == 2


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_replaces_an_older_one_and_never_contains_itself(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_bytes(os.urandom(MIB))
    (tmp_path / "all").symlink_to(tmp_path)
    compress(tmp_path / "all", form)
    done = compress(tmp_path / "all", form)
    assert done["archive"] == f"{tmp_path}/all.{form}"
    extract(tmp_path / f"all.{form}", tmp_path / "back")
    assert {path.name for path in (tmp_path / "back" / "all").iterdir()} <= {"file", "all", f"all.{form}"}
    assert (tmp_path / "back/all/file").read_bytes() == (tmp_path / "file").read_bytes()


def test_what_cannot_be_packed_is_refused_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "taken").touch()
    (tmp_path / "taken.zip").mkdir()
    before = sorted(tmp_path.iterdir())
    for path in ("/", "//", f"{small}/.", f"{small}/..", "relative"):
        assert "path must" in refused(INVALID, path, "tar", call=compress)
    assert "one of tar, tar.gz, tar.bz2, zip, got 'rar'" in refused(INVALID, small, "rar", call=compress)
    assert "leave room for .tar.bz2" in refused(INVALID, tmp_path / ("n" * 250), "tar.bz2", call=compress)
    refused(MISSING, tmp_path / "none", "tar", call=compress)
    refused(MISSING, tmp_path / "none" / "below", "zip", call=compress)
    assert "neither a directory nor a regular file" in refused(REFUSED, tmp_path / "pipe", "tar", call=compress)
    assert "is a directory, where the archive" in refused(REFUSED, tmp_path / "taken", "zip", call=compress)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_out_of_an_archive_is_reported_once(small: Path, tmp_path: Path, form: str) -> None:
    socket_at(small / "socket")
    assert compress(small, form)["listed"] == [["small/socket", "a socket"]]
    assert extract(Path(f"{small}.{form}"), tmp_path / "back")["skipped"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_unpacking_into_a_directory_merges_with_it(small: Path, tmp_path: Path, form: str) -> None:
    compress(small, form)
    into = tmp_path / "into"
    (into / "small" / "sub").mkdir(parents=True)
    (into / "small" / "sub").chmod(0o711)
    (into / "small" / "sub" / "other").write_text("other")
    (into / "small" / "one").write_text("old")
    assert extract(Path(f"{small}.{form}"), into)["files"] == 2
    assert (into / "small/one").read_bytes() == (small / "one").read_bytes()
    assert {path.name for path in (into / "small/sub").iterdir()} == {"two", "other"}
    assert stat.S_IMODE((into / "small/sub").stat().st_mode) == 0o711
    assert left_behind(tmp_path) == []


def test_a_large_directory_is_merged_whole(tmp_path: Path) -> None:
    members = Archive()
    for number in range(5000):
        members.add(f"dir/{number}", data=b"new")
    (tmp_path / "many.tar").write_bytes(members.data)
    (tmp_path / "into" / "dir").mkdir(parents=True)
    for number in range(0, 6000, 2):
        (tmp_path / "into" / "dir" / str(number)).write_text("old")
    assert extract(tmp_path / "many.tar", tmp_path / "into")["files"] == 5000
    assert {int(path.name) for path in (tmp_path / "into/dir").iterdir()} == {*range(5000), *range(5000, 6000, 2)}
    assert (tmp_path / "into/dir/4998").read_text() == "new"


def test_what_stands_in_the_way_stays_and_is_reported(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        Archive()
        .add("door/passwd", data=b"mine")
        .add("file/deep/x", data=b"mine")
        .add("file/y", data=b"mine")
        .add("dir", data=b"mine")
        .add("fine", data=b"fine")
        .data
    )
    into, outside = tmp_path / "into", tmp_path / "outside"
    outside.mkdir()
    (into / "dir").mkdir(parents=True)
    (into / "file").write_text("file")
    (into / "door").symlink_to(outside)
    done = extract(archive, into)
    assert sorted(done["listed"]) == [
        ["dir", "a directory is in the place of the file"],
        ["door", "a file or a link is in the place of the directory"],
        ["file", "a file or a link is in the place of the directory"],
    ]
    assert (done["files"], done["size"]) == (1, 4)
    assert list(outside.iterdir()) == []
    assert ((into / "file").read_text(), (into / "fine").read_text()) == ("file", "fine")
    assert left_behind(tmp_path) == []


HOSTILE = ["../outside/new", "a/../../outside/new", "/../outside/new", ".."]


def hostile_tar(victim: Path) -> bytes:
    archive = Archive()
    for name in HOSTILE:
        archive.add(name, data=b"mine")
    archive.add(f"{victim}", data=b"mine")
    archive.add("up", tarfile.SYMTYPE, link="../outside").add("up/new", data=b"mine")
    archive.add("abs", tarfile.SYMTYPE, link=str(victim)).add("hard", tarfile.LNKTYPE, link="../outside/victim")
    archive.add("disk", tarfile.BLKTYPE).add("suid", data=b"x", mode=0o6755)
    return archive.add("good", data=b"good").data


def hostile_zip(victim: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*HOSTILE, str(victim)):
            archive.writestr(name, "mine")
        for name, mode, content in (
            ("up", stat.S_IFLNK | 0o777, "../outside"),
            ("up/new", stat.S_IFREG | 0o644, "mine"),
            ("abs", stat.S_IFLNK | 0o777, str(victim)),
            ("hard", stat.S_IFSOCK | 0o644, ""),
            ("disk", stat.S_IFBLK | 0o644, ""),
            ("suid", stat.S_IFREG | 0o6755, "x"),
            ("good", stat.S_IFREG | 0o644, "good"),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return file.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_archive_changes_nothing_outside_and_its_good_members_are_unpacked(tmp_path: Path, form: str) -> None:
    victim, into = tmp_path / "outside" / "victim", tmp_path / "into"
    victim.parent.mkdir()
    victim.write_text("untouched")
    archive = tmp_path / f"a.{form}"
    data = hostile_zip(victim) if form == "zip" else hostile_tar(victim)
    if form in {"tar", "zip"}:
        archive.write_bytes(data)
    else:
        tool = {"tar.gz": "gzip", "tar.bz2": "bzip2"}[form]
        archive.write_bytes(subprocess.run([tool, "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout)
    done = extract(archive, into)
    assert {name for name, _ in done["listed"]} == {*HOSTILE, "up", "abs", "hard", "disk"}
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]
    assert victim.read_text() == "untouched"
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "into", f"a.{form}"}
    assert (into / str(victim).lstrip("/")).read_text() == "mine"
    assert (into / "good").read_text() == "good"
    assert (into / "up/new").read_text() == "mine", "the directory must be a real one, not the link"
    assert stat.S_IMODE((into / "suid").stat().st_mode) == 0o755


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_that_is_cut_is_refused_and_leaves_nothing(small: Path, tmp_path: Path, form: str) -> None:
    compress(small, form)
    data = Path(f"{small}.{form}").read_bytes()
    archive, into = tmp_path / f"cut.{form}", tmp_path / "new" / "into"
    for end in (0, 1, 20, 513, 100_000, len(data) - 1025, len(data) - 5):
        if form == "tar" and end == len(data) - 5:
            continue  # Only a part of the padding is missing.
        archive.write_bytes(data[:end])
        assert "nothing was unpacked" in refused(REFUSED, archive, into)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_archive_is_refused_and_leaves_an_existing_directory_as_it_was(tmp_path: Path, form: str) -> None:
    archive, into = tmp_path / f"no.{form}", tmp_path / "into"
    into.mkdir()
    (into / "file").touch()
    for data in (b"no archive " * 1000, os.urandom(100_000), bytes(10)):
        archive.write_bytes(data)
        refused(REFUSED, archive, into)
    assert [path.name for path in into.iterdir()] == ["file"]


def test_calls_that_name_nothing_to_unpack_are_refused(small: Path, tmp_path: Path) -> None:
    compress(small, "tar")
    (tmp_path / "dir.tar").mkdir()
    assert "must end in one of .tar, .tar.gz" in refused(INVALID, tmp_path / "x.rar", tmp_path)
    refused(MISSING, tmp_path / "none.tar", tmp_path)
    refused(REFUSED, tmp_path / "dir.tar", tmp_path)
    assert "Not a directory" in refused(REFUSED, tmp_path / "small.tar", small / "one")
    assert "Not a directory" in refused(REFUSED, tmp_path / "small.tar", small / "one" / "below")
    assert left_behind(tmp_path) == []


def test_an_archive_in_an_archive_stays_one(small: Path, tmp_path: Path) -> None:
    compress(small, "zip")
    (tmp_path / "outer").mkdir()
    Path(f"{small}.zip").rename(tmp_path / "outer" / "small.zip")
    compress(tmp_path / "outer", "tar.gz")
    assert extract(tmp_path / "outer.tar.gz", tmp_path / "back")["files"] == 1
    assert [path.name for path in (tmp_path / "back/outer").iterdir()] == ["small.zip"]


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "zip"])
def test_a_bomb_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(archive_limits, "FREE_BYTES", 4 * MIB)
    (tmp_path / "bomb").write_bytes(bytes(12 * MIB))
    compress(tmp_path / "bomb", form)
    message = refused(REFUSED, tmp_path / f"bomb.{form}", tmp_path / "into")
    assert "more than 4194304 bytes and more than 200 times its size; nothing was unpacked" in message
    assert "run tar or unzip" in message
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("form", FORMS)
def test_limits_of_members_and_bytes_hold_for_every_format(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    compress(small, form)
    archive, into = Path(f"{small}.{form}"), tmp_path / "into"
    monkeypatch.setattr(archive_limits, "MAX_MEMBERS", 3)
    assert "more than 3 members" in refused(REFUSED, archive, into)
    monkeypatch.setattr(archive_limits, "MAX_MEMBERS", 4)
    monkeypatch.setattr(archive_limits, "MAX_BYTES", 300_000)
    assert "more than 300000 bytes of content" in refused(REFUSED, archive, into)
    assert not into.exists()
    monkeypatch.setattr(archive_limits, "MAX_BYTES", MIB)
    assert extract(archive, into)["files"] == 2


def test_entries_of_a_zip_archive_cannot_share_their_content(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one", os.urandom(10_000))
        info = archive.infolist()[0]
        archive.filelist.extend([info] * 5)
    (tmp_path / "bomb.zip").write_bytes(file.getvalue())
    assert "overlap" in refused(REFUSED, tmp_path / "bomb.zip", tmp_path / "into")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_a_damaged_archive_is_unpacked_or_refused_and_touches_nothing_outside(
    data: st.DataObject, form: str, tmp_path: Path
) -> None:
    victim, into = tmp_path / "outside" / "victim", tmp_path / "into"
    if not victim.exists():
        victim.parent.mkdir()
        victim.write_text("untouched")
        top = tmp_path / "top"
        top.mkdir()
        (top / "file").write_bytes(b"content " * 40)
        (top / "link").symlink_to("file")
        for each in FORMS:
            compress(top, each)
    good = (tmp_path / f"top.{form}").read_bytes()
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        at = data.draw(st.integers(min_value=0, max_value=len(good) - 1))
        changed[at] = data.draw(st.sampled_from([0, 0x2E, 0x2F, 0x80, 0xFF, changed[at] ^ 1]))
    archive = tmp_path / f"changed.{form}"
    archive.write_bytes(changed)
    try:
        extract(archive, into)
    except RefusalError as error:
        assert error.code == REFUSED
    assert victim.read_text() == "untouched"
    assert {path.name for path in tmp_path.iterdir()} <= {
        *("outside", "into", "top", archive.name),
        *(f"{name}.{each}" for each in FORMS for name in ("top", "changed")),
    }
    assert left_behind(tmp_path) == []
    subprocess.run(["rm", "-rf", into], check=True)


@pytest.mark.skipif(not ROOT, reason="needs root to mount")
@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_nothing_either_way(small: Path, tmp_path: Path, form: str) -> None:
    compress(small, form)
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], check=True)
    try:
        (place / "link").symlink_to(small)
        assert "No space left" in refused(FULL, place / "link", form, call=compress)
        assert "nothing was unpacked" in refused(FULL, Path(f"{small}.{form}"), place / "into")
        assert [path.name for path in place.iterdir()] == ["link"]
        (place / "small").mkdir()
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(not ROOT, reason="needs root to mount")
def test_what_belongs_to_another_file_system_is_reported(small: Path, tmp_path: Path) -> None:
    compress(small, "tar")
    into = tmp_path / "into"
    (into / "small" / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", into / "small" / "sub"], check=True)
    try:
        done = extract(tmp_path / "small.tar", into)
    finally:
        subprocess.run(["umount", into / "small" / "sub"], check=True)
    assert done["files"] == 1
    assert done["listed"] == [
        ["small/sub/two", "another file system is mounted at its place; unpack into that directory"]
    ]
    assert (into / "small/one").exists()


def test_an_endless_hole_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_limits, "MAX_BYTES", 2 * MIB)
    archive = tmp_path / "hole.tar"
    archive.write_bytes(tar.pack(tar.Member(path=b"x", size=2**40)))
    os.truncate(archive, 2**40)
    assert "bytes of content" in refused(REFUSED, archive, tmp_path / "into")
    assert not (tmp_path / "into").exists()
