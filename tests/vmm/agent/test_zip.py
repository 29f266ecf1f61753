"""Zip archives: made by the agent and read by other programs, and the other way round."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.agent.archive_calls import compress, extract, left_behind
from tests.vmm.agent.trees import MIB, grow, look
from vmm.agent import zip_headers, zip_packing
from vmm.agent.archive_limits import Budget
from vmm.agent.tally import Tally
from vmm.agent.zip_headers import CENTRAL, LOCAL, Directory, Entry
from vmm.agent.zip_reading import ZipSource


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    grow(top)
    (top / "holes").unlink()  # Eight gigabytes of zeros.
    (top / "pipe").unlink()  # Zip has none.
    if os.geteuid() == 0:
        (top / "one").chmod(0)
    return top


def in_seconds(found: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """What `look` found, with times as exact as zip has them."""
    return {path: (kind, mode, time // 10**9, content) for path, (kind, mode, time, content) in found.items()}


def test_a_tree_is_the_same_after_packing_and_unpacking(tree: Path, tmp_path: Path) -> None:
    done = compress(tree, "zip")
    assert (done["archive"], done["skipped"]) == (f"{tree}.zip", 0)
    assert done["archive_size"] == (tmp_path / "tree.zip").stat().st_size
    back = extract(tmp_path / "tree.zip", tmp_path / "new" / "back")
    assert (back["files"], back["size"], back["skipped"]) == (done["files"], done["size"], 0)
    assert in_seconds(look(tmp_path / "new" / "back" / "tree")) == in_seconds(look(tree))
    assert left_behind(tmp_path) == []


def test_pythons_zipfile_reads_what_the_agent_packs(tree: Path, tmp_path: Path) -> None:
    compress(tree, "zip")
    with zipfile.ZipFile(tmp_path / "tree.zip") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            path = tree.parent / info.filename
            if b"\xff" in os.fsencode(path) or "no text" in info.filename:
                continue  # Python takes names that are not UTF-8 as those of MS-DOS.
            status = path.lstat()
            assert info.external_attr >> 16 == status.st_mode, info.filename
            if stat.S_ISREG(status.st_mode):
                assert archive.read(info) == path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                assert archive.read(info).decode() == str(path.readlink())
        names = {os.path.normpath(name) for name in archive.namelist()}
    assert len(names) == len(look(tree))


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip")
def test_unzip_unpacks_what_the_agent_packs(tree: Path, tmp_path: Path) -> None:
    compress(tree, "zip")
    subprocess.run(["unzip", "-q", "tree.zip", "-d", "back"], cwd=tmp_path, check=True)
    # Unzip sets no times of links and none before 1970, and it drops characters that terminals interpret.
    odd = {path for path, facts in look(tree).items() if facts[0] == stat.S_IFLNK or not path.isprintable()}
    wanted, got = in_seconds(look(tree)), in_seconds(look(tmp_path / "back" / "tree"))
    assert wanted.keys() - got.keys() <= odd
    for path in wanted.keys() - odd - {"empty"}:
        assert got[path] == wanted[path]


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs zip")
@pytest.mark.parametrize("options", [[], ["-0"], ["-fz"]], ids=["deflated", "stored", "zip64"])
def test_the_agent_unpacks_what_zip_packs(tree: Path, tmp_path: Path, options: list[str]) -> None:
    subprocess.run(["zip", "-q", "-r", "-y", *options, "made.zip", "tree"], cwd=tmp_path, check=True)
    assert extract(tmp_path / "made.zip", tmp_path / "back")["skipped"] == 0
    assert in_seconds(look(tmp_path / "back" / "tree")) == in_seconds(look(tree))


def test_the_agent_unpacks_what_python_packs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"a comment " * 1000
        archive.writestr("plain", "text")
        archive.mkdir("dir")
        with archive.open("big", "w", force_zip64=True) as file:
            file.write(b"x" * MIB)
        bare = zipfile.ZipInfo("old/naïve")
        bare.create_system, bare.external_attr = 0, 0
        archive.writestr(bare, "of MS-DOS")
        folder = zipfile.ZipInfo("folder")
        folder.create_system, folder.external_attr = 0, 0x10
        archive.writestr(folder, "")
        packed = zipfile.ZipInfo("lzma")
        packed.compress_type = zipfile.ZIP_LZMA
        archive.writestr(packed, "x" * 1000)
    done = extract(tmp_path / "made.zip", tmp_path / "back")
    back = tmp_path / "back"
    assert (back / "plain").read_text() == "text"
    assert (back / "dir").is_dir()
    assert (back / "big").read_bytes() == b"x" * MIB
    assert (back / "old/naïve").read_text() == "of MS-DOS"
    assert stat.S_IMODE((back / "old/naïve").stat().st_mode) == 0o644
    assert stat.S_IMODE((back / "folder").stat().st_mode) == 0o755
    assert done["listed"] == [["lzma", "it is compressed by method 14; methods 0 and 8 are known"]]


def test_data_before_an_archive_is_skipped_as_in_programs_that_unpack_themselves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("file")
    compress(tmp_path / "file", "zip")
    archive = (tmp_path / "file.zip").read_bytes()
    (tmp_path / "self.zip").write_bytes(b"#!/bin/sh\nexit 0\n" * 100 + archive)
    assert extract(tmp_path / "self.zip", tmp_path / "back")["files"] == 1


def test_a_file_with_two_names_is_there_twice_and_a_fifo_is_skipped(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    (top / "one").write_text("same")
    os.link(top / "one", top / "two")
    os.mkfifo(top / "pipe")
    done = compress(top, "zip")
    assert done["listed"] == [["tree/pipe", "a FIFO, which zip cannot hold"]]
    extract(tmp_path / "tree.zip", tmp_path / "back")
    assert (tmp_path / "back/tree/one").read_text() == (tmp_path / "back/tree/two").read_text() == "same"


def test_more_entries_than_sixteen_bits_can_count_are_packed_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_packing, "_MAX_BUFFERED", 100_000)  # The central directory goes through the spool.
    (tmp_path / "link").symlink_to("x")
    status = (tmp_path / "link").lstat()
    with (tmp_path / "spool").open("w+b") as spool, (tmp_path / "many.zip").open("w+b") as file:
        form = zip_packing.ZipForm(Tally(), spool.fileno())
        file.writelines(form.link(b"link %d" % number, status, b"x") for number in range(70_000))
        file.writelines(form.end())
        assert os.fstat(spool.fileno()).st_size > 4_000_000
        size = file.tell()
        with zipfile.ZipFile(file) as archive:
            assert [info.filename for info in archive.infolist()] == [f"link {number}" for number in range(70_000)]
        file.flush()
        parts = ZipSource(file.fileno(), size, Tally(), Budget(size)).tar()
        assert sum(1 for part in parts if part.startswith(b"link ")) == 70_000


@given(
    name=st.binary(min_size=1, max_size=50).filter(lambda name: not name.startswith(b"\0")),
    mode=st.integers(min_value=0, max_value=0xFFFF),
    mtime=st.integers(min_value=-(2**31), max_value=2**31 - 1),
    sizes=st.tuples(*[st.integers(min_value=0, max_value=2**63)] * 3),
    crc=st.integers(min_value=0, max_value=2**32 - 1),
)
def test_a_header_of_the_central_directory_is_the_same_after_decoding(
    name: bytes, mode: int, mtime: int, sizes: tuple[int, int, int], crc: int
) -> None:
    size, packed, at = sizes
    entry = Entry(name=name, mode=mode, mtime=mtime, crc=crc, size=size, packed=packed, at=at, method=8)
    data = zip_headers.central(entry)
    head, rest = data[: CENTRAL.size], data[CENTRAL.size :]
    found = zip_headers.entry_of(head, rest[: len(name)], rest[len(name) :])
    assert (found.name, found.mode, found.mtime, found.crc) == (name, mode, mtime, crc)
    assert (found.size, found.packed, found.at) == sizes


@pytest.mark.parametrize(
    ("seconds", "back"),
    [(2**31, 2**31), (2**31 + 1, 2**31), (4_000_000_000, 4_000_000_000), (2**33, 4_354_819_198)],
)
def test_times_that_the_timestamp_cannot_hold_are_those_of_ms_dos(seconds: int, back: int) -> None:
    data = zip_headers.central(Entry(name=b"x", mtime=seconds))
    assert zip_headers.entry_of(data[: CENTRAL.size], b"x", data[CENTRAL.size + 1 :]).mtime == back


def test_the_end_is_of_the_size_that_is_needed() -> None:
    assert len(zip_headers.end(Directory(entries=65_534, size=1, at=1))) == zip_headers.END.size
    for directory in (Directory(65_535, 1, 1), Directory(1, 2**32 - 1, 1), Directory(1, 1, 2**40)):
        assert len(zip_headers.end(directory)) > zip_headers.END.size


def test_a_file_that_may_have_four_gigabytes_has_sizes_of_64_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_packing, "_GROWTH", 2**32)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(MIB))
    compress(path, "zip")
    assert LOCAL.unpack((tmp_path / "large.zip").read_bytes()[: LOCAL.size])[1] == 45
    with zipfile.ZipFile(tmp_path / "large.zip") as archive:
        assert archive.infolist()[0].extract_version == 45
        assert archive.read("large") == path.read_bytes()
    extract(tmp_path / "large.zip", tmp_path / "back")
    assert (tmp_path / "back/large").read_bytes() == path.read_bytes()


def test_a_truncated_file_is_packed_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(MIB))
    with (tmp_path / "spool").open("w+b") as spool, path.open("rb") as file:
        status = os.fstat(file.fileno())
        tally = Tally()
        form = zip_packing.ZipForm(tally, spool.fileno())
        parts = form.file(file.fileno(), b"file", status)
        data = next(parts)
        os.truncate(path, 300_000)
        data += b"".join(parts) + b"".join(form.end())
    assert tally.listed == [("file", "it was truncated while it was read; the rest is missing")]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert len(archive.read("file")) == 300_000
