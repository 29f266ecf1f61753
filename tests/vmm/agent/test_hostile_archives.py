"""Archives that try to escape the directory that they are unpacked into, or to exhaust memory or crash the unpacker."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.vmm.agent.test_archives import unpacked
from tests.vmm.guest.agents import resident
from vmm.agent import tar
from vmm.agent.tar import Member, TarError
from vmm.agent.unpacking import Unpacker


class Archive:
    """An archive that is built member by member, valid or not."""

    def __init__(self) -> None:
        self.file = io.BytesIO()

    def add(
        self, name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", data: bytes = b"", mode: int = 0o644
    ) -> Archive:
        info = tarfile.TarInfo()
        info.name, info.type, info.linkname, info.size, info.mode = name, kind, link, len(data), mode
        self.file.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data + tar.padding(len(data)))
        return self

    @property
    def data(self) -> bytes:
        return self.file.getvalue() + tar.END


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The directory to unpack into, next to files that must not change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim").write_text("untouched")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def outside(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (target.parent / "outside").iterdir()}


@pytest.fixture(autouse=True)
def untouched(target: Path) -> Generator[None]:
    yield
    assert outside(target) == {"victim": b"untouched"}
    assert {path.name for path in target.parent.iterdir()} == {"outside", "target"}


@pytest.mark.parametrize("name", ["../outside/new", "a/../../outside/new", "..", "a/..", "/../outside/new", "./../new"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE])
def test_names_with_parent_directories_are_skipped(target: Path, name: str, kind: bytes) -> None:
    tally = unpacked(Archive().add("file", data=b"x").add(name, kind, link="file").add("after").data, target)
    assert [reason for _, reason in tally.listed] == ["its path contains '..'"]
    assert {path.name for path in target.iterdir()} == {"file", "after"}


def test_an_absolute_name_is_relative_to_the_directory(target: Path) -> None:
    unpacked(Archive().add(f"{target.parent}/outside/victim", data=b"mine").data, target)
    assert (target / str(target.parent).lstrip("/") / "outside" / "victim").read_text() == "mine"


@pytest.mark.parametrize("link", ["../outside", "{outside}", "sub/../../outside"])
def test_nothing_is_written_through_a_link(target: Path, link: str) -> None:
    link = link.format(outside=target.parent / "outside")
    archive = Archive().add("sub", tarfile.DIRTYPE, mode=0o755).add("door", tarfile.SYMTYPE, link=link)
    archive.add("door/victim", data=b"mine").add("door/new", tarfile.DIRTYPE).add("door/x/y", data=b"mine")
    archive.add("file", tarfile.SYMTYPE, link=f"{link}/victim").add("file", data=b"mine")
    archive.add("hard", tarfile.LNKTYPE, link="door/victim").add("hard", data=b"own")
    tally = unpacked(archive.data, target)
    assert [name for name, _ in tally.listed] == ["door/victim", "door/new/", "door/x/y", "hard"]
    assert (target / "door").is_symlink()
    assert (target / "file").read_text() == "mine"
    assert not (target / "file").is_symlink()
    assert (target / "hard").read_text() == "own"


def test_an_existing_link_is_not_followed_either(target: Path) -> None:
    (target / "door").symlink_to("../outside")
    (target / "file").symlink_to("../outside/victim")
    tally = unpacked(Archive().add("door/victim", data=b"mine").add("file", data=b"mine").data, target)
    assert [name for name, _ in tally.listed] == ["door/victim"]
    assert (target / "file").read_text() == "mine"


def test_hard_links_to_anything_but_files_are_skipped(target: Path) -> None:
    # A hard link would move the symbolic link to another directory, where it points elsewhere.
    archive = Archive().add("a/b", tarfile.SYMTYPE, link="../..").add("c", tarfile.LNKTYPE, link="a/b")
    archive.add("gone", tarfile.LNKTYPE, link="nothing").add("dir", tarfile.LNKTYPE, link="a")
    tally = unpacked(archive.data, target)
    assert [name for name, _ in tally.listed] == ["c", "gone", "dir"]


@pytest.mark.parametrize(
    ("name", "link", "made"),
    [
        ("l", "a", True),
        ("l", "./a/b", True),
        ("a/l", "../b", True),
        ("a/b/l", "../../c", True),
        ("l", "..", False),
        ("l", "../outside/victim", False),
        ("a/l", "../../outside", False),
        ("l", "/etc/passwd", False),
        ("l", "a/../..", False),
        ("l", "a/..", False),
        ("a/b/l", "../../../x", False),
        ("./l", "..", False),
        ("a//l", "../..", False),
    ],
)
def test_of_an_untrusted_archive_only_links_within_the_directory_are_created(
    target: Path, name: str, link: str, made: bool
) -> None:
    archive = Archive().add(name, tarfile.SYMTYPE, link=link).data
    tally = unpacked(archive, target, inward=True)
    assert (target / name).is_symlink() is made
    assert (tally.skipped == 0) is made


def test_two_links_within_the_directory_cannot_be_combined_to_escape_it(target: Path) -> None:
    archive = Archive().add("a/up", tarfile.SYMTYPE, link="..").add("b", tarfile.SYMTYPE, link="a/up/..")
    tally = unpacked(archive.data, target, inward=True)
    assert tally.listed == [("b", "a link that points outside the directory")]


def test_devices_are_skipped_and_setuid_setgid_and_sticky_bits_are_dropped(target: Path) -> None:
    archive = Archive().add("null", tarfile.CHRTYPE).add("disk", tarfile.BLKTYPE)
    archive.add("suid", data=b"x", mode=0o6755).add("dir", tarfile.DIRTYPE, mode=0o3777)
    tally = unpacked(archive.data, target)
    assert tally.listed == [("null", "a device"), ("disk", "a device")]
    assert stat.S_IMODE((target / "suid").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "dir").stat().st_mode) == 0o777


def test_a_later_member_of_the_same_name_replaces_a_file_but_never_a_directory(target: Path) -> None:
    archive = Archive().add("x", data=b"first").add("x", tarfile.SYMTYPE, link="y").add("x", data=b"last")
    archive.add("d/in", data=b"in").add("d", data=b"file").add("d", tarfile.SYMTYPE, link="/")
    archive.add("x/under", data=b"under")
    tally = unpacked(archive.data, target)
    assert [name for name, _ in tally.listed] == ["d", "d", "x/under"]
    assert (target / "x").read_bytes() == b"last"
    assert (target / "d" / "in").read_bytes() == b"in"


def test_replacing_a_hard_link_does_not_change_the_other_link(target: Path) -> None:
    (target / "old").write_text("old")
    archive = Archive().add("also", tarfile.LNKTYPE, link="old").add("also", tarfile.LNKTYPE, link="old")
    unpacked(archive.add("also", data=b"new", mode=0o600).data, target)
    assert ((target / "old").read_text(), (target / "also").read_text()) == ("old", "new")
    assert sorted(path.name for path in target.iterdir()) == ["also", "old"]


def test_names_that_no_file_can_have_are_skipped(target: Path) -> None:
    odd = tar.pack(Member(path=b"x", records={b"path": b"nul\0here"}))
    other = tar.pack(Member(path=b"link", kind=tar.SYMBOLIC, records={b"linkpath": b"a\0b"}))
    long = tar.pack(Member(path=b"n" * 300))
    deep = tar.pack(Member(path=b"d/" * 5000 + b"x"))
    nameless = tar.pack(Member(path=b"./"))
    tally = unpacked(odd + other + long + deep + nameless + Archive().add("after").data, target)
    assert tally.skipped == 4
    assert {path.name for path in target.iterdir()} == {"after"}


@pytest.mark.parametrize(
    "member",
    [
        Member(path=b"x", records={b"size": b"-5"}),
        Member(path=b"x", records={b"uid": b"99999999999999999999"}),
        Member(path=b"x", records={b"uid": b"4294967295"}),
        Member(path=b"x", records={b"mtime": b"soon"}),
        Member(path=b"x", kind=tar.RECORDS, size=2**30),
        Member(path=b"x", kind=tar.LONG_NAME, size=2**40),
        Member(path=b"x", size=512, records={b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9" * 30}),
    ],
)
def test_invalid_numbers_end_the_unpacking(target: Path, member: tar.Member) -> None:
    with pytest.raises(TarError):
        unpacked(tar.pack(member) + bytes(4096), target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "holes",
    [b"1\n0\n99999\n", b"1\n5000\n10\n", b"2\n0\n10\n", b"x\n", b"-1\n", b"99999999\n", b"0" * 512, b"1\n-5\n10\n"],
)
def test_invalid_sparse_maps_end_the_unpacking(target: Path, holes: bytes) -> None:
    content = holes + tar.padding(len(holes)) + bytes(512)
    data = tar.pack(Member(path=b"x", size=len(content), whole=1000)) + content + tar.END
    with pytest.raises(TarError):
        unpacked(data, target)
    assert list(target.iterdir()) == []


def test_times_that_no_file_can_have_are_ignored(target: Path) -> None:
    times = b"999999999999999999", b"-99999999999999999", b"99999999999999"
    data = b"".join(tar.pack(Member(path=b"f%d" % at, records={b"mtime": time})) for at, time in enumerate(times))
    assert unpacked(data + tar.END, target).skipped == 0
    assert len(list(target.iterdir())) == 3


def test_an_archive_with_any_damaged_byte_is_unpacked_or_refused(target: Path) -> None:
    archive = Archive().add("d/é" + "x" * 120, data=b"content").add("l", tarfile.SYMTYPE, link="d").data
    for at in range(0, len(archive) - 1024, 11):
        for byte in (0, 0x41, 0xFF):
            damaged = archive[:at] + bytes((byte,)) + archive[at + 1 :]
            try:
                unpacked(damaged, target, inward=True)
            except TarError:
                continue


def test_tens_of_thousands_of_members_need_little_memory(target: Path) -> None:
    members = [Member(path=b"up/../%d" % at, records={b"x" * 100: b"y" * 400}) for at in range(300)]
    part = b"".join(tar.pack(member) for member in members)
    unpacker = Unpacker(os.open(target, os.O_RDONLY))
    unpacker.feed(part * 4)
    before = resident(os.getpid())
    for _ in range(60):
        unpacker.feed(part)
    assert resident(os.getpid()) - before < 8 * 2**20
    unpacker.feed(tar.END)
    unpacker.finish()
    assert (unpacker.tally.skipped, len(unpacker.tally.listed)) == (19_200, 1000)
    assert list(target.iterdir()) == []


def test_a_forged_comment_is_bounded_and_validated(target: Path) -> None:
    comments = [
        b'{"casemate.skipped":[["a","b"],[1,2],"x",{}],"count":-5}',
        b'{"casemate.skipped":5,"count":1}',
        b"[" * 10_000,
        b'{"casemate.skipped":[' + b",".join([b'["n","r"]'] * 5000) + b'],"count":5000}',
    ]
    data = b"".join(tar.pack(Member(path=b"f", records={b"comment": comment})) for comment in comments)
    tally = unpacked(data + tar.END, target)
    assert (tally.skipped, len(tally.listed), tally.listed[0]) == (5000, 1000, ("a", "b"))


def test_members_of_unknown_kinds_are_skipped_and_reported(target: Path) -> None:
    data = tar.pack(Member(path=b"volume", kind=b"V")) + tar.pack(Member(path=b"old", kind=b"S", size=5))
    tally = unpacked(data + bytes(512) + Archive().add("after").data, target)
    assert [name for name, _ in tally.listed] == ["volume", "old"]
    assert [path.name for path in target.iterdir()] == ["after"]
