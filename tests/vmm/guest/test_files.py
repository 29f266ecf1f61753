from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.vmm.agent.trees import look, socket_at
from tests.waiting import PATIENCE_S, until
from vmm.errors import GuestDiskFull, GuestError, GuestFileMissing, GuestFileRefused, InvalidInput
from vmm.guest.link import GuestLink
from vmm.guest.values import MIB

pytestmark = pytest.mark.anyio
ROOT = os.geteuid() == 0
BAD_PATHS = [
    ("relative/path", "absolute"),
    ("", "absolute"),
    ("/a\0b", "NUL"),
    ("/" + "x" * 5000, "at most 4095"),
]


def names(place: str) -> list[str]:
    """Return a directory's content, as seen from outside the guest."""
    return sorted(entry.name for entry in Path(place).iterdir())


async def test_written_data_can_be_read(link: GuestLink, place: str) -> None:
    data = bytes(range(256)) * 10
    info = await link.write_file(f"{place}/file", data)
    assert (info.path, info.kind, info.size, stat.S_IMODE(info.mode)) == (f"{place}/file", "file", 2560, 0o644)
    read = await link.read_file(f"{place}/file")
    assert (read.data, read.size, read.offset) == (data, 2560, 0)


@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 3 * MIB + 17])
async def test_files_of_any_size_can_be_written_and_read(link: GuestLink, place: str, size: int) -> None:
    data = os.urandom(size)
    assert (await link.write_file(f"{place}/file", data)).size == size
    assert Path(place, "file").read_bytes() == data
    assert (await link.read_file(f"{place}/file")).data == data


async def test_ranges_are_returned_as_requested(link: GuestLink, place: str) -> None:
    data = os.urandom(1_000_000)
    Path(place, "file").write_bytes(data)
    for offset, length in [(0, 0), (5, 10), (999_990, 100), (2_000_000, 5), (0, 700_000), (300_000, None)]:
        read = await link.read_file(f"{place}/file", offset=offset, length=length)
        assert read.data == data[offset : None if length is None else offset + length]
        assert read.size == len(data)


async def test_a_file_that_the_kernel_generates_is_read_to_its_end(link: GuestLink) -> None:
    read = await link.read_file("/proc/self/status")
    assert read.data.startswith(b"Name:")
    assert read.size == len(read.data)


async def test_parts_of_a_file_that_the_kernel_generates_tell_that_there_is_more(link: GuestLink) -> None:
    path = next(path for path in ("/proc/kallsyms", "/proc/self/maps") if len(Path(path).read_bytes()) > 1000)
    part = await link.read_file(path, length=500)
    assert (len(part.data), part.more, part.size) == (500, True, None)
    beyond = await link.read_file(path, offset=2**40)
    assert (beyond.data, beyond.more, beyond.size) == (b"", False, None)


async def test_a_kernel_value_is_complete_from_any_offset_and_in_any_pieces(link: GuestLink) -> None:
    # The kernel returns such a value only at offset 0, and drops what does not fit into the first read.
    path = "/proc/sys/kernel/pid_max"
    value = Path(path).read_bytes()
    pieces = [await link.read_file(path, offset=offset, length=2) for offset in range(0, len(value) + 2, 2)]
    assert b"".join(piece.data for piece in pieces) == value
    assert [piece.more for piece in pieces] == [piece.offset + 2 < len(value) for piece in pieces]


async def test_a_file_whose_stated_size_is_too_large_is_read_to_its_end(link: GuestLink) -> None:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not Path(path).exists():
        path = next(str(path) for path in Path("/sys/class/net").glob("*/mtu"))
    value = Path(path).read_bytes()
    read = await link.read_file(path)
    assert (read.data, read.size, read.more) == (value, len(value), False)
    assert (await link.stat(path)).size > len(value)
    for offset in (1, len(value), 5000):
        assert (await link.read_file(path, offset=offset)).data == value[offset:]


async def test_the_kernels_reason_for_refusing_a_read_is_reported(link: GuestLink) -> None:
    with pytest.raises(GuestError, match="Input/output error"):
        await link.read_file("/proc/self/mem", length=10)


async def test_a_file_that_grows_while_it_is_read_is_read_to_its_new_end(link: GuestLink, place: str) -> None:
    path = Path(place, "log")
    path.write_bytes(b"x" * 30 * MIB)
    async with link.open_read(str(path)) as (info, pieces):
        with path.open("ab") as file:
            file.write(b"y" * 3 * MIB)
        got = b"".join([piece async for piece in pieces])
    assert info.size == 30 * MIB
    assert got == b"x" * 30 * MIB + b"y" * 3 * MIB
    assert not pieces.more


async def test_a_file_that_shrinks_while_it_is_read_is_read_to_its_new_end(link: GuestLink, place: str) -> None:
    path = Path(place, "log")
    path.write_bytes(b"x" * 30 * MIB)
    async with link.open_read(str(path)) as (_, pieces):
        first = await anext(pieces)
        os.truncate(path, 10)
        rest = b"".join([piece async for piece in pieces])
    assert len(first) + len(rest) < 30 * MIB


async def test_offsets_beyond_four_gib_and_beyond_the_end_are_valid(link: GuestLink, place: str) -> None:
    path = Path(place, "huge")
    with path.open("wb") as file:
        file.truncate(9 * 2**30)
        file.seek(5 * 2**30 + 7)
        file.write(b"here")
    read = await link.read_file(str(path), offset=5 * 2**30 + 6, length=6)
    assert (read.data, read.more, read.size) == (b"\0here\0", True, 9 * 2**30)
    beyond = await link.read_file(str(path), offset=2**62)
    assert (beyond.data, beyond.more, beyond.size) == (b"", False, 9 * 2**30)


async def test_names_may_be_in_any_script_or_not_text_at_all(link: GuestLink, place: str) -> None:
    await link.write_file(f"{place}/é ü\n\u4e2d", b"x")
    Path(os.fsdecode(os.fsencode(place) + b"/\xff")).write_bytes(b"")
    listed = [entry.path.removeprefix(place) for entry in (await link.list_files(place)).entries]
    assert listed == ["/é ü\n\u4e2d", "/\\xff"]


async def test_a_rewritten_file_keeps_mode_and_owner(link: GuestLink, place: str) -> None:
    path = Path(place, "script")
    path.write_text("old")
    path.chmod(0o754)
    if ROOT:
        os.chown(path, 1234, 5678)
    info = await link.write_file(str(path), b"new")
    assert stat.S_IMODE(info.mode) == 0o754
    if ROOT:
        assert (info.uid, info.gid) == (1234, 5678)
    assert stat.S_IMODE((await link.write_file(str(path), b"new", mode=0o600)).mode) == 0o600
    assert [entry.path for entry in (await link.list_files(place)).entries] == [str(path)]


async def test_parents_are_created_on_request(link: GuestLink, place: str) -> None:
    await link.write_file(f"{place}/a/b/c", b"x")
    assert Path(place, "a/b/c").read_bytes() == b"x"
    with pytest.raises(GuestFileMissing):
        await link.write_file(f"{place}/x/y", b"x", make_parents=False)
    with pytest.raises(GuestFileRefused, match="Not a directory"):
        await link.write_file(f"{place}/a/b/c/d", b"x")


async def test_appending_keeps_the_old_content(link: GuestLink, place: str) -> None:
    for piece in (b"one ", b"two"):
        await link.write_file(f"{place}/log", piece, append=True)
    assert Path(place, "log").read_bytes() == b"one two"


async def test_writing_through_a_link_changes_its_target(link: GuestLink, place: str) -> None:
    Path(place, "target").write_text("old")
    Path(place, "link").symlink_to("target")
    await link.write_file(f"{place}/link", b"new")
    assert Path(place, "link").is_symlink()
    assert Path(place, "target").read_text() == "new"
    info = await link.stat(f"{place}/link")
    assert (info.kind, info.target) == ("symlink", "target")


async def test_streams_work_in_both_directions(link: GuestLink, place: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(20):
            yield bytes([number]) * (number * 50_000)

    whole = b"".join([chunk async for chunk in chunks()])
    assert (await link.write_stream(f"{place}/file", chunks(), mode=0o640)).size == len(whole)
    async with link.open_read(f"{place}/file", offset=100) as (info, pieces):
        assert info.size == len(whole)
        assert b"".join([piece async for piece in pieces]) == whole[100:]


async def test_a_broken_source_leaves_the_old_content(link: GuestLink, place: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        raise LookupError("the source broke")

    await link.write_file(f"{place}/file", b"old")
    with pytest.raises(LookupError):
        await link.write_stream(f"{place}/file", chunks())
    with anyio.fail_after(PATIENCE_S):
        while len(names(place)) > 1:  # The agent deletes its temporary file as soon as it notices the end.
            await anyio.sleep(0.01)
    assert (await link.read_file(f"{place}/file")).data == b"old"


async def test_a_cancelled_write_leaves_the_old_content(link: GuestLink, place: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await anyio.sleep(0.01)

    await link.write_file(f"{place}/file", b"old")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.write_stream, f"{place}/file", chunks())
        await until(lambda: len(names(place)) > 1)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(PATIENCE_S):
        while len(names(place)) > 1:
            await anyio.sleep(0.01)
    assert (await link.read_file(f"{place}/file")).data == b"old"


async def test_leaving_a_read_early_does_no_harm(link: GuestLink, place: str) -> None:
    Path(place, "file").write_bytes(bytes(10 * MIB))
    async with link.open_read(f"{place}/file") as (_, pieces):
        async for piece in pieces:
            assert piece
            break
    assert (await link.stat(f"{place}/file")).size == 10 * MIB


async def test_a_listing_is_in_order_and_tells_if_there_is_more(link: GuestLink, place: str) -> None:
    for name in ("c", "a", "b"):
        Path(place, name).touch()
    whole, part = await link.list_files(place), await link.list_files(place, limit=2)
    assert ([Path(entry.path).name for entry in whole.entries], whole.truncated) == (["a", "b", "c"], False)
    assert ([Path(entry.path).name for entry in part.entries], part.truncated) == (["a", "b"], True)
    (first,) = (await link.list_files("/", limit=1)).entries
    assert first.path.count("/") == 1


async def test_directories_can_be_made_and_deleted(link: GuestLink, place: str) -> None:
    assert (await link.make_directory(f"{place}/a/b")).kind == "directory"
    await link.make_directory(f"{place}/a/b")
    with pytest.raises(GuestFileRefused, match="exists"):
        await link.make_directory(f"{place}/a", parents=False)
    await link.write_file(f"{place}/a/b/file", b"x")
    Path(place, "a/link").symlink_to("/etc")
    with pytest.raises(GuestFileRefused, match="not empty"):
        await link.delete(f"{place}/a")
    await link.delete(f"{place}/a", recursive=True)
    with pytest.raises(GuestFileMissing):
        await link.stat(f"{place}/a")
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("path", ["/", "//", "/.", "/usr/.."])
async def test_the_root_cannot_be_deleted_or_moved(link: GuestLink, path: str) -> None:
    for recursive in (True, False):
        with pytest.raises(GuestFileRefused, match="root"):
            await link.delete(path, recursive=recursive)
    with pytest.raises(GuestFileRefused, match="root"):
        await link.move(path, "/elsewhere")


async def test_files_and_directories_can_be_moved(link: GuestLink, place: str) -> None:
    await link.write_file(f"{place}/a", b"a")
    await link.write_file(f"{place}/b", b"b")
    with pytest.raises(GuestFileRefused, match="exists"):
        await link.move(f"{place}/a", f"{place}/b", overwrite=False)
    assert (await link.move(f"{place}/a", f"{place}/b")).path == f"{place}/b"
    assert names(place) == ["b"]
    await link.make_directory(f"{place}/d")
    with pytest.raises(GuestFileRefused, match="directory"):
        await link.move(f"{place}/b", f"{place}/d")
    with pytest.raises(GuestFileMissing, match="/e: no such directory"):
        await link.move(f"{place}/b", f"{place}/e/b")
    with pytest.raises(GuestFileMissing):
        await link.move(f"{place}/nothing", f"{place}/x")
    with pytest.raises(GuestFileRefused):
        await link.move(f"{place}/d", f"{place}/d/d")


async def test_a_move_across_file_systems_copies(link: GuestLink, place: str) -> None:
    if Path("/dev/shm").stat().st_dev == Path(place).stat().st_dev or not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no second file system")
    target = Path("/dev/shm", f"casemate-{os.getpid()}")
    try:
        await link.write_file(f"{place}/d/file", b"x", mode=0o600)
        await link.move(f"{place}/d", str(target))
        assert (target / "file").read_bytes() == b"x"
        assert names(place) == []
    finally:
        await link.delete(str(target), recursive=True)


async def test_trees_are_copied_with_modes_owners_and_times(link: GuestLink, place: str) -> None:
    source = Path(place, "source")
    (source / "inner").mkdir(parents=True)
    (source / "inner/file").write_bytes(b"x" * 3_000_000)
    (source / "inner/file").chmod(0o751)
    os.utime(source / "inner/file", ns=(10**18, 10**18))
    (source / "link").symlink_to("nowhere")
    source.chmod(0o500)
    await link.copy(str(source), f"{place}/copy")
    copy = Path(place, "copy")
    assert (copy / "inner/file").read_bytes() == b"x" * 3_000_000
    assert stat.S_IMODE((copy / "inner/file").stat().st_mode) == 0o751
    assert (copy / "inner/file").stat().st_mtime_ns == 10**18
    assert (copy / "link").readlink() == Path("nowhere")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o500
    source.chmod(0o700)
    copy.chmod(0o700)
    with pytest.raises(GuestFileRefused, match="exists"):
        await link.copy(str(source), str(copy))
    with pytest.raises(GuestFileRefused, match="itself"):
        await link.copy(str(source), f"{place}/source/inner/again")
    with pytest.raises(GuestFileMissing):
        await link.copy(f"{place}/nothing", f"{place}/x")
    assert names(place) == ["copy", "source"]


async def test_a_file_can_be_copied_over_another(link: GuestLink, place: str) -> None:
    await link.write_file(f"{place}/a", b"a", mode=0o755)
    await link.write_file(f"{place}/b", b"b")
    assert stat.S_IMODE((await link.copy(f"{place}/a", f"{place}/b")).mode) == 0o755
    assert (await link.read_file(f"{place}/b")).data == b"a"


async def test_a_special_file_is_not_opened(link: GuestLink, place: str) -> None:
    os.mkfifo(f"{place}/pipe")
    for path in (f"{place}/pipe", "/dev/zero"):
        with pytest.raises(GuestFileRefused, match="not a regular file"):
            await link.read_file(path)
        with pytest.raises(GuestFileRefused, match="not a regular file"):
            await link.write_file(path, b"x")
    assert names(place) == ["pipe"]


async def test_a_copy_includes_special_files_and_keeps_holes(link: GuestLink, place: str) -> None:
    source = Path(place, "source")
    source.mkdir()
    os.mkfifo(source / "pipe", 0o640)
    socket_at(source / "socket")
    with (source / "holes").open("wb") as file:
        file.seek(2**30)
        file.write(b"after the hole")
        file.truncate(2**40)
    await link.copy(str(source), f"{place}/copy")
    assert look(Path(place, "copy")) == look(source)
    assert Path(place, "copy", "holes").stat().st_blocks * 512 < MIB
    assert (await link.copy(f"{place}/source/pipe", f"{place}/other")).kind == "other"


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS)
async def test_a_bad_path_is_refused_everywhere(link: GuestLink, path: str, reason: str) -> None:
    calls = [
        link.stat(path),
        link.list_files(path),
        link.read_file(path),
        link.write_file(path, b""),
        link.make_directory(path),
        link.delete(path),
        link.move(path, "/x"),
        link.move("/x", path),
        link.copy(path, "/x"),
        link.search(path, name="*"),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match=reason):
            await call


async def test_a_directory_is_not_a_file_and_a_file_is_not_a_directory(link: GuestLink, place: str) -> None:
    await link.write_file(f"{place}/file", b"")
    with pytest.raises(GuestFileRefused, match="directory"):
        await link.read_file(place)
    with pytest.raises(GuestFileRefused, match="directory"):
        await link.write_file(place, b"")
    with pytest.raises(InvalidInput, match="directory"):
        await link.write_file(f"{place}/", b"")
    with pytest.raises(GuestFileRefused, match="Not a directory"):
        await link.list_files(f"{place}/file")
    with pytest.raises(GuestFileRefused, match="Not a directory"):
        await link.stat(f"{place}/file/x")


async def test_a_missing_file_is_reported_by_every_call(link: GuestLink, place: str) -> None:
    path = f"{place}/nothing"
    for call in (link.stat(path), link.list_files(path), link.read_file(path), link.delete(path)):
        with pytest.raises(GuestFileMissing, match="nothing"):
            await call
    with pytest.raises(GuestFileMissing):
        await link.search(path, name="*")


async def test_numbers_out_of_bounds_are_refused(link: GuestLink, place: str) -> None:
    calls = [
        link.read_file("/etc/passwd", offset=-1),
        link.read_file("/etc/passwd", length=-1),
        link.read_file("/etc/passwd", length=65 * MIB),
        link.read_file("/etc/passwd", offset=2**63),
        link.list_files("/", limit=0),
        link.write_file(f"{place}/x", b"", mode=0o10000),
        link.search("/", name="x", limit=0),
        link.search("/"),
    ]
    for call in calls:
        with pytest.raises(InvalidInput):
            await call


async def test_a_huge_file_can_be_read_only_in_ranges(link: GuestLink, place: str) -> None:
    with Path(place, "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidInput, match="67108864"):
        await link.read_file(f"{place}/huge")
    assert (await link.read_file(f"{place}/huge", offset=2**40 - 3)).data == b"\0\0\0"


async def test_a_read_only_file_system_is_reported(link: GuestLink) -> None:
    with pytest.raises((GuestFileRefused, GuestFileMissing, GuestError)):
        await link.write_file("/proc/new", b"x", make_parents=False)
    with pytest.raises(GuestFileRefused):
        await link.write_file("/sys/kernel/new", b"x")


async def test_a_kernel_value_is_written_in_place_and_the_kernels_refusal_is_reported(link: GuestLink) -> None:
    path = "/proc/self/oom_score_adj"
    for append in (False, True):
        with pytest.raises(GuestFileRefused, match="Invalid argument"):
            await link.write_file(path, b"no number", append=append)
    for value, append in ((b"101", False), (b"102", True), (b"103\n", False)):
        info = await link.write_file(path, value, append=append)
        assert append or info.size == len(value)
        assert (await link.read_file(path)).data.strip() == value.strip()
    assert (await link.write_file(path, b"104", mode=0o644)).size == 3
    with pytest.raises(GuestFileRefused, match="Operation not permitted"):
        await link.write_file(path, b"105", mode=0o600)
    assert (await link.read_file(path)).data == b"104\n"
    with pytest.raises(GuestError, match=r"Permission denied|Operation not permitted|Input/output error"):
        await link.write_file("/proc/version", b"mine")


@pytest.mark.skipif(not ROOT, reason="needs root to mount")
async def test_a_full_disk_is_reported_and_the_old_content_stays(link: GuestLink, place: str) -> None:
    await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place])
    try:
        await link.write_file(f"{place}/file", b"old")
        with pytest.raises(GuestDiskFull, match="No space"):
            await link.write_file(f"{place}/file", bytes(20 * MIB))
        with pytest.raises(GuestDiskFull, match="No space"):
            await link.write_file(f"{place}/log", bytes(2 * MIB), append=True)
        await link.delete(f"{place}/log")
        Path(place, "source").write_bytes(bytes(700_000))
        with pytest.raises(GuestDiskFull, match="No space"):
            await link.copy(f"{place}/source", f"{place}/copy")
        assert names(place) == ["file", "source"]
        assert (await link.read_file(f"{place}/file")).data == b"old"
        with pytest.raises(GuestFileRefused, match=r"mounted|busy"):
            await link.delete(place, recursive=True)
        await anyio.run_process(["mount", "-o", "remount,ro", place])
        for call in (
            link.write_file(f"{place}/file", b"x"),
            link.delete(f"{place}/file"),
            link.make_directory(f"{place}/d"),
        ):
            with pytest.raises(GuestFileRefused, match="Read-only"):
                await call
    finally:
        await anyio.run_process(["umount", place])
