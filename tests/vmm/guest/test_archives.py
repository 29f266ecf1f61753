"""Whole trees out of a guest and into it."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from tests.vmm.agent.trees import MIB, grow, look, socket_at
from tests.vmm.guest.agents import Agent
from vmm.agent import frames, tar
from vmm.errors import GuestDiskFull, GuestFileMissing, GuestFileRefused, InvalidInput, LinkTimeout
from vmm.guest.connection import Connection
from vmm.guest.link import GuestLink
from vmm.guest.uploading import Upload

PATIENCE_S = 2.0

pytestmark = pytest.mark.anyio
ROOT = os.geteuid() == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    grow(top)
    return top


async def several(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_tree_is_the_same_after_streaming_out_and_in(link: GuestLink, tree: Path, place: str) -> None:
    async with link.pack(str(tree)) as archive:
        assert (archive.info.path, archive.info.kind) == (str(tree), "directory")
        report = await link.unpack(f"{place}/made/on/the/way", archive)
    assert look(Path(place, "made/on/the/way")) == look(tree)
    assert report == archive.report
    assert (report.skipped, report.files) == (0, len([path for path in tree.rglob("*") if not is_directory(path)]))


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


async def test_skipped_files_are_reported_at_both_ends(link: GuestLink, place: str) -> None:
    top = Path(place, "tree")
    top.mkdir()
    (top / "file").write_text("file")
    socket_at(top / "socket")
    async with link.pack(str(top)) as archive:
        report = await link.unpack(f"{place}/back", archive)
    assert archive.report.listed == report.listed == (("socket", "a socket"),)
    assert (archive.report.skipped, report.skipped, report.files) == (1, 1, 1)


async def test_unpacking_into_an_existing_directory_keeps_its_own_attributes(
    link: GuestLink, tree: Path, place: str
) -> None:
    into = Path(place, "into")
    (into / "sub").mkdir(parents=True)
    (into / "sub").chmod(0o711)
    (into / "run").write_text("old")
    (into / "other").write_text("other")
    async with link.pack(str(tree)) as archive:
        await link.unpack(str(into), archive)
    assert (into / "run").read_text() == "#!/bin/sh\necho ran"
    assert (into / "other").read_text() == "other"
    assert (into / "sub").stat().st_mode & 0o777 == 0o711


async def test_the_kernels_file_systems_are_left_out_of_the_root(link: GuestLink) -> None:
    async with link.pack("/sys/kernel/mm") as archive:
        names = [name async for piece in archive for name in (b"transparent_hugepage", b"hugepages") if name in piece]
    assert names
    assert archive.report.files


async def test_invalid_paths_and_archives_are_refused(link: GuestLink, place: str) -> None:
    Path(place, "file").write_text("file")
    os.mkfifo(f"{place}/pipe")
    for path, error in (
        (f"{place}/none", GuestFileMissing),
        (f"{place}/file", GuestFileRefused),
        (f"{place}/pipe", GuestFileRefused),
        ("relative", InvalidInput),
    ):
        with pytest.raises(error):
            async with link.pack(path):
                pass
    for path in (f"{place}/file", f"{place}/pipe", f"{place}/file/below"):
        with pytest.raises(GuestFileRefused, match="Not a directory"):
            await link.unpack(path, several(tar.END))
    with pytest.raises(InvalidInput, match="checksum"):
        await link.unpack(f"{place}/new", several(b"no archive" * 100))
    one = tar.pack(tar.Member(path=b"one", mode=0o644))
    with pytest.raises(InvalidInput, match=r"archive is truncated; unpacked before that: 1 files"):
        await link.unpack(f"{place}/new", several(one, one[:100]))
    assert (await link.unpack(f"{place}/new", several(one + tar.END, bytes(10_000)))).files == 1


async def test_an_interrupted_upload_leaves_no_partial_file(link: GuestLink, place: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield tar.pack(tar.Member(path=b"whole", size=3)) + b"abc" + tar.padding(3)
        yield tar.pack(tar.Member(path=b"half", size=MIB)) + bytes(1000)
        with anyio.fail_after(10):
            while len(list(Path(place, "new").iterdir())) < 2:
                await anyio.sleep(0.01)
        raise LookupError("the source broke")

    Path(place, "new").mkdir()
    Path(place, "new", "half").write_text("before")
    with pytest.raises(LookupError):
        await link.unpack(f"{place}/new", broken())
    with anyio.fail_after(10):
        while {path.name for path in Path(place, "new").iterdir()} != {"whole", "half"}:
            await anyio.sleep(0.01)
    assert Path(place, "new", "half").read_text() == "before"


async def test_leaving_a_pack_early_leaves_nothing_open(guest: Agent, link: GuestLink, place: str) -> None:
    below = Path(place, *("d" * 50))
    below.mkdir(parents=True)
    with (below / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 50 * MIB)
    await link.ping()
    before = descriptors(guest)
    async with link.pack(place) as archive:
        assert await anext(archive)
        assert descriptors(guest) > before + 40
    with anyio.fail_after(10):
        while descriptors(guest) > before:
            await anyio.sleep(0.01)


async def test_a_stream_that_is_cancelled_as_it_begins_closes_its_connection(
    link: GuestLink, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, close = Connection.send, Connection.aclose
    closed: list[Connection] = []

    async def send_and_cancel(self: Connection, data: bytes | bytearray) -> None:
        await send(self, data)
        if b'"op":"pack"' in data:
            scope.cancel()

    async def note_and_close(self: Connection) -> None:
        closed.append(self)
        await close(self)

    monkeypatch.setattr(Connection, "send", send_and_cancel)
    monkeypatch.setattr(Connection, "aclose", note_and_close)
    with anyio.CancelScope() as scope:
        async with link.pack(place):
            raise AssertionError("it was cancelled")
    assert len(closed) == 1


def descriptors(guest: Agent) -> int:
    return len(list(Path(f"/proc/{guest.process.pid}/fd").iterdir()))


async def test_large_trees_need_little_memory(guest: Agent, link: GuestLink, place: str) -> None:
    top = Path(place, "tree")
    for number in range(100):
        (top / str(number)).mkdir(parents=True)
        for name in range(20):
            (top / str(number) / str(name)).write_bytes(b"x" * 5000)
    with (top / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100 * MIB)
    before = guest.resident()
    async with link.pack(str(top)) as archive:
        report = await link.unpack(f"{place}/back", archive)
    assert (report.files, report.size) == (2001, 100 * MIB + 2000 * 5000)
    assert guest.resident() - before < 12 * MIB


@pytest.mark.parametrize("lives", [True, False])
async def test_an_upload_lasts_as_long_as_the_guest_gives_signs_of_life(lives: bool) -> None:
    ours, theirs = socket.socketpair()

    async def guest() -> None:
        stream = await SocketStream.from_socket(theirs)
        begun = anyio.current_time()
        async with stream:
            while lives and anyio.current_time() < begun + 2 * PATIENCE_S:
                await stream.send(frames.pack(frames.DATA))
                await anyio.sleep(0.05)
            if lives:
                await stream.send(frames.pack_json(frames.RESULT, {"done": True}))
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guest)
        connection = Connection(await SocketStream.from_socket(ours), 0)
        upload = Upload(connection, "unpack", PATIENCE_S).run(b"", several(b"x"))
        if lives:
            assert (await upload).value == {"done": True}
        else:
            with pytest.raises(LinkTimeout, match="no sign of life"):
                await upload
        await connection.aclose()
        tasks.cancel_scope.cancel()


@pytest.mark.skipif(not ROOT, reason="needs root to mount")
async def test_a_full_disk_ends_an_upload_and_is_reported(link: GuestLink, place: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("one", "two", "three"):
            info = tarfile.TarInfo(name)
            info.size = 600_000
            archive.addfile(info, io.BytesIO(bytes(600_000)))
    await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place])
    try:
        with pytest.raises(GuestDiskFull, match="No space left on device; unpacked before that: 1 files"):
            await link.unpack(place, several(file.getvalue()))
        assert [path.name for path in Path(place).iterdir()] == ["one"]
    finally:
        await anyio.run_process(["umount", place])
