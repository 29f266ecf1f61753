"""VoidRun's Python clients work with the files of a sandbox."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.voidrun_package import FS, FileWatcher, calls, errors
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture
def place(box: Any) -> Iterator[str]:
    """A directory in the sandbox."""
    box.fs.create_directory("/tmp/place/sub")
    yield "/tmp/place"
    box.exec("rm -rf /tmp/place*")


@calls(FS.upload_file, FS.upload_file_from_path, FS.download_file)
def test_files_come_back_as_they_were_sent(box: Any, place: str, tmp_path: Path) -> None:
    blob = os.urandom(3_000_000)
    (tmp_path / "blob").write_bytes(blob)
    sent: dict[str, str | bytes] = {"text": "grüße\n", "bytes": blob, "empty": b""}
    for name, content in sent.items():
        answer = box.fs.upload_file(f"{place}/new/{name}", content)
        assert answer.status_code == 200, answer.data
        back = box.fs.download_file(f"{place}/new/{name}")
        assert back == (content.encode() if isinstance(content, str) else content)
    assert box.fs.upload_file_from_path(f"{place}/copy of it", str(tmp_path / "blob")).status_code == 200
    assert box.fs.download_file(f"{place}/copy of it") == blob
    assert box.fs.upload_file("/proc/nothing/here", "x").status_code >= 400
    with pytest.raises(errors.NotFoundException):
        box.fs.download_file(f"{place}/missing")


@calls(FS.upload_file_async, FS.download_file_async, FS.list_files_async)
async def test_files_without_blocking(async_box: Any, place: str) -> None:
    assert (await async_box.fs.upload_file_async(f"{place}/told", "one\n")).status_code == 200
    assert await async_box.fs.download_file_async(f"{place}/told") == b"one\n"
    assert {each.name for each in (await async_box.fs.list_files_async(place)).data} == {"sub", "told"}


@calls(
    FS.create_directory,
    FS.create_file,
    FS.copy_file,
    FS.move_file,
    FS.change_permissions,
    FS.delete_file,
    FS.list_files,
)
def test_files_are_made_copied_moved_and_deleted(box: Any, place: str) -> None:
    fs = box.fs
    fs.create_directory(f"{place}/a/b")
    fs.create_file(f"{place}/a/one")
    fs.upload_file(f"{place}/a/two", "2\n")
    fs.copy_file(f"{place}/a", f"{place}/copies/a")
    fs.move_file(f"{place}/a/two", f"{place}/moved/two")
    fs.change_permissions(f"{place}/moved/two", "750")
    listed = {each.name: each for each in fs.list_files(f"{place}/moved").data}
    assert listed.keys() == {"two"}
    two = listed["two"]
    assert (two.size, two.mode, two.is_dir, two.mod_time is not None) == (2, "-rwxr-x---", False, True)
    assert {each.name: each.is_dir for each in fs.list_files(f"{place}/copies/a").data} == {
        "b": True,
        "one": False,
        "two": False,
    }
    assert fs.delete_file(f"{place}/copies").data.data.exit_code == 0
    assert {each.name for each in fs.list_files(place).data} == {"a", "moved", "sub"}
    failed = fs.move_file(f"{place}/missing", f"{place}/x").data.data
    assert failed.exit_code != 0
    assert "missing" in failed.stderr


def test_a_directory_of_more_than_ten_thousand_files_is_listed_whole(box: Any, place: str) -> None:
    assert box.exec(f"cd {place}/sub && seq -f 'f%g' 10100 | xargs touch").data.exit_code == 0
    assert len(box.fs.list_files(f"{place}/sub").data) == 10_100


@calls(FS.stat_file, FS.head_tail, FS.disk_usage, FS.search_files)
def test_files_are_looked_at(box: Any, place: str) -> None:
    fs = box.fs
    fs.upload_file(f"{place}/log.txt", "".join(f"line {number}\n" for number in range(1, 21)))
    fs.change_permissions(f"{place}/log.txt", "644")
    fs.create_file(f"{place}/sub/empty.txt")
    status = json.loads(fs.stat_file(f"{place}/log.txt").data.data.stdout)
    assert (status["path"], status["size"], status["mode"]) == (f"{place}/log.txt", 151, "81a4")
    assert status["type"] == "regular file"
    assert isinstance(status["mtime"], int)
    assert json.loads(fs.stat_file(f"{place}/sub/empty.txt").data.data.stdout)["type"] == "regular empty file"
    assert fs.head_tail(f"{place}/log.txt", lines=2).data.data.stdout == "line 1\nline 2\n"
    assert fs.head_tail(f"{place}/log.txt", lines=1, head=False).data.data.stdout == "line 20\n"
    size, tab, path = fs.disk_usage(place).data.data.stdout.strip().partition("\t")
    assert (size[-1].isalpha(), tab, path) == (True, "\t", place)
    found = fs.search_files(place, "*.txt").data.data.stdout.splitlines()
    assert sorted(found) == [f"{place}/log.txt", f"{place}/sub/empty.txt"]


@calls(FS.compress_file, FS.extract_archive)
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "zip"])
def test_a_directory_is_packed_beside_itself_and_unpacked(box: Any, place: str, kind: str) -> None:
    fs = box.fs
    fs.upload_file(f"{place}/sub/told", "one\n")
    assert fs.compress_file(f"{place}/sub", kind).data.data.exit_code == 0
    assert box.exec(f"test -s {place}/sub.{kind}").data.exit_code == 0
    assert fs.extract_archive(f"{place}/sub.{kind}", f"{place}/out").data.data.exit_code == 0
    assert fs.download_file(f"{place}/out/sub/told") == b"one\n"


@calls(FS.watch, FileWatcher.connect, FileWatcher.close)
async def test_changes_are_watched_in_new_directories_too(async_box: Any, place: str) -> None:
    fs = async_box.fs
    events: list[dict[str, Any]] = []
    errors: list[Exception] = []
    watcher = await fs.watch(place, recursive=True, on_event=events.append, on_error=errors.append)

    def seen(kind: str, path: str) -> bool:
        return any(event["path"] == f"{place}/{path}" and event["type"] == kind for event in events)

    await async_box.run_code_async(f"mkdir {place}/later; echo 1 > {place}/sub/told", language="bash")
    await until(lambda: seen("created", "later") and seen("created", "sub/told"))
    await async_box.run_code_async(f"echo 2 > {place}/later/deep; touch {place}/.hidden", language="bash")
    await until(lambda: seen("created", "later/deep"))
    await async_box.run_code_async(f"echo 3 >> {place}/later/deep; rm {place}/sub/told", language="bash")
    await until(lambda: seen("modified", "later/deep") and seen("deleted", "sub/told"))
    assert not any(".hidden" in event["path"] for event in events)
    task = watcher._task
    watcher.close()
    await task
    assert errors == []
