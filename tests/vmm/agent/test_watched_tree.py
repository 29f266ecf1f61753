"""What is told of a watched directory, and in which words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vmm.agent.watched import Copy, Watched, named, paths, watched
from vmm.agent import watch_room
from vmm.agent.inotify import IGNORED, QUEUE_OVERFLOW, UNMOUNT, Event, WatchLimitError

_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def overflowing(seen: Watched) -> None:
    """Lose what the queue has, as the kernel does when it is full."""
    while seen.inotify.read():
        pass
    seen.tree.handle([Event(-1, QUEUE_OVERFLOW, 0, b"")])


def test_writes_are_told_once_with_the_size_that_they_led_to(tmp_path: Path) -> None:
    with watched(tmp_path) as seen, (tmp_path / "log").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 10)
        (told,) = seen.drain()
        assert (told["type"], told["size"], told["directory"]) == ("created", 500, False)
        for _ in range(50):
            file.write(b"x" * 10)
            (tmp_path / "other").write_text("x")
        assert named(seen.drain(), tmp_path) == [("modified", "log"), ("created", "other")]


def test_a_tree_that_is_made_at_once_is_told_once_and_watched(tmp_path: Path) -> None:
    with watched(tmp_path) as seen:
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        (tmp_path / "a" / "b" / "c" / "file").write_text("x")
        told = named(seen.drain(), tmp_path)
        assert sorted(told) == [("created", name) for name in ("a", "a/b", "a/b/c", "a/b/c/file")]
        (tmp_path / "a" / "b" / "c" / "file").write_text("y")
        assert named(seen.drain(), tmp_path) == [("modified", "a/b/c/file")]


def test_what_was_there_before_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "old" / "deep").mkdir(parents=True)
    with watched(tmp_path) as seen:
        assert seen.drain() == []
        (tmp_path / "old" / "deep" / "new").touch()
        assert named(seen.drain(), tmp_path)[0] == ("created", "old/deep/new")


def test_a_rename_has_both_names_and_its_directory_is_still_watched(tmp_path: Path) -> None:
    (tmp_path / "one" / "deep").mkdir(parents=True)
    with watched(tmp_path) as seen:
        (tmp_path / "one").rename(tmp_path / "two")
        assert named(seen.drain(), tmp_path) == [("renamed", "one", "two")]
        (tmp_path / "two" / "deep" / "file").touch()
        assert named(seen.drain(), tmp_path)[0] == ("created", "two/deep/file")


def test_what_leaves_is_deleted_and_what_comes_is_created(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    (top / "leaves" / "deep").mkdir(parents=True)
    (outside / "comes" / "deep").mkdir(parents=True)
    with watched(top) as seen:
        (top / "leaves").rename(outside / "left")
        assert named(seen.drain(), top) == [("deleted", "leaves")]
        (outside / "left" / "deep" / "file").touch()
        assert seen.drain() == []
        (outside / "comes").rename(top / "came")
        assert named(seen.drain(), top) == [("created", "came"), ("created", "came/deep")]


def test_hidden_names_are_ignored_with_all_in_them(tmp_path: Path) -> None:
    with watched(tmp_path, ignore_hidden=True) as seen:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "index").touch()
        (tmp_path / "shown").touch()
        (tmp_path / "shown").rename(tmp_path / ".shown")
        (tmp_path / ".shown").rename(tmp_path / "again")
        told = named(seen.drain(), tmp_path)
    assert [one for one in told if one[0] != "chmod"] == [
        ("created", "shown"),
        ("deleted", "shown"),
        ("created", "again"),
    ]


def test_a_file_is_watched_through_its_replacement(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    (tmp_path / "link").symlink_to("file")
    with watched(file) as seen, watched(tmp_path / "link") as by_link:
        (tmp_path / "other").touch()
        file.write_text("two, longer")
        (tmp_path / "draft").write_text("three")
        (tmp_path / "draft").rename(file)
        file.unlink()
        file.write_text("four")
        for one, path in ((seen, file), (by_link, tmp_path / "link")):
            told = one.drain()
            assert {change["path"] for change in told} == {str(path)}
            assert [change["type"] for change in told] == ["modified", "deleted", "created"]
        assert seen.told[-1]["size"] == 4


def test_a_directory_that_a_link_leads_to_is_told_by_the_links_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with watched(tmp_path / "link") as seen:
        (tmp_path / "real" / "file").write_text("x")
        (told,) = seen.drain()
    assert (told["path"], told["size"]) == (f"{tmp_path}/link/file", 1)


def test_links_below_are_names_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "elsewhere").mkdir()
    with watched(tmp_path / "top") as seen:
        (tmp_path / "top" / "link").symlink_to("../elsewhere")
        (tmp_path / "elsewhere" / "file").touch()
        assert named(seen.drain(), tmp_path / "top") == [("created", "link")]


def test_names_that_are_no_text_are_told_escaped(tmp_path: Path) -> None:
    with watched(tmp_path) as seen:
        os.close(os.open(os.fsencode(tmp_path) + b"/\xff\n", os.O_CREAT))
        (told,) = seen.drain()
    assert told["path"] == f"{tmp_path}/\\xff\n"


def _moved(top: Path) -> None:
    top.rename(top.parent / "moved")


@pytest.mark.parametrize(("end", "reason"), [(Path.rmdir, "it was deleted"), (_moved, "it was moved")])
def test_the_end_of_the_directory_ends_the_watch(tmp_path: Path, end: Callable[[Path], None], reason: str) -> None:
    top = tmp_path / "top"
    top.mkdir()
    with watched(top) as seen:
        end(top)
        (told,) = seen.drain()
        assert (told["type"], told["path"], told["reason"]) == ("deleted", str(top), reason)
        assert seen.tree.ended == reason


def test_a_directory_whose_parent_moved_is_noticed(tmp_path: Path) -> None:
    top = tmp_path / "parent" / "top"
    top.mkdir(parents=True)
    with watched(top) as seen:
        (tmp_path / "parent").rename(tmp_path / "moved")
        assert seen.drain() == []
        seen.tree.check()
        assert seen.tree.ended == "it was deleted or moved"
    top.mkdir(parents=True)
    with watched(top) as seen:
        seen.tree.check()
        assert not seen.tree.ended
        shutil.move(tmp_path / "parent", tmp_path / "away")
        top.mkdir(parents=True)
        seen.tree.check()
        assert seen.tree.ended == "it was replaced"


def test_lost_events_are_told_and_made_good(tmp_path: Path) -> None:
    (tmp_path / "old" / "deep").mkdir(parents=True)
    copy = Copy(tmp_path)
    with watched(tmp_path) as seen:
        shutil.rmtree(tmp_path / "old")
        (tmp_path / "new" / "deep").mkdir(parents=True)
        overflowing(seen)
        told = seen.drain()
        assert (told[0]["type"], told[0]["path"]) == ("overflow", str(tmp_path))
        copy.apply(told)
        assert copy.found == paths(tmp_path)
        (tmp_path / "new" / "deep" / "file").touch()
        assert ("created", "new/deep/file") in named(seen.drain(), tmp_path)


def test_a_queue_that_is_really_full_is_told(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"the queue of this host has room for {most} events")
    copy = Copy(tmp_path)
    with watched(tmp_path) as seen:
        for number in range(most // 2 + 100):
            os.mkdir(tmp_path / f"{number}")  # noqa: PTH102 (pathlib is slower)
            os.rmdir(tmp_path / f"{number}")  # noqa: PTH106
        (tmp_path / "last").mkdir()
        told = seen.drain()
        assert "overflow" in {change["type"] for change in told}
        copy.apply(told)
        assert copy.found == paths(tmp_path)


def test_a_file_system_that_goes_is_told_with_what_was_below_it(tmp_path: Path) -> None:
    (tmp_path / "place" / "deep").mkdir(parents=True)
    with watched(tmp_path) as seen:
        place = seen.known.root.entries[b"place"]
        assert place is not None
        deep = place.entries[b"deep"]
        assert deep is not None
        numbers = [directory.number for directory in (deep, place, seen.known.root)]
        (tmp_path / "place" / "deep").rmdir()
        while seen.inotify.read():
            pass
        for number in numbers[:2]:
            seen.tree.handle([Event(number, UNMOUNT, 0, b"")])
            seen.tree.handle([Event(number, IGNORED, 0, b"")])
        told = named(seen.drain(), tmp_path)
        assert ("unmounted", "place") in told
        assert ("deleted", "place/deep") in told
        seen.tree.handle([Event(numbers[2], UNMOUNT, 0, b"")])
        assert seen.tree.ended == "it was unmounted"


def test_a_directory_that_is_mounted_below_itself_is_watched_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    script = (
        f"mount --bind {tmp_path} {tmp_path}/a && exec {sys.executable} -c "
        "'import sys; sys.path.insert(0, sys.argv[2]);"
        "from pathlib import Path; from tests.vmm.agent.watched import watched\n"
        "with watched(Path(sys.argv[1])) as seen: print(seen.known.share.directories, seen.known.share.names)' "
        f"{tmp_path} {Path(__file__).parents[3]}"
    )
    if os.geteuid() != 0 or shutil.which(_MOUNTS[0]) is None:
        pytest.skip("mounting needs root and unshare")
    ran = subprocess.run([*_MOUNTS, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["1", "1"], ran.stderr


def test_limits_refuse_at_the_beginning_and_are_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_room, "MOST_DIRECTORIES", 3)
    monkeypatch.setattr(watch_room, "MOST_NAMES", 5)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with watched(tmp_path) as seen:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "file").touch()
        assert named(seen.drain(), tmp_path) == [("created", "c"), ("overflow", "c")]
        assert "at most 3 directories" in seen.told[-1]["reason"]
        for number in range(5):
            (tmp_path / "a" / f"{number}").touch()
        told = named(seen.drain(), tmp_path)
        assert ("created", "a/1") in told
        assert ("overflow", "a") in told
        assert ("created", "a/4") not in told
        with pytest.raises(WatchLimitError, match="at most 3 directories"), watched(tmp_path, room=seen.room):
            pass
    with pytest.raises(WatchLimitError, match="at most 5 files"), watched(tmp_path):
        pass


def test_an_event_that_is_forgotten_takes_no_watch(tmp_path: Path) -> None:
    with watched(tmp_path) as seen:
        for _ in range(5):
            (tmp_path / "a" / "b").mkdir(parents=True)
            seen.drain()
            assert seen.known.share.directories == 3
            (tmp_path / "a").rename(tmp_path.parent / f"{tmp_path.name}-out")
            seen.drain()
            assert (seen.known.share.directories, seen.known.share.names) == (1, 0)
            shutil.rmtree(tmp_path.parent / f"{tmp_path.name}-out")
        assert _watches(seen) == 1


def _watches(seen: Watched) -> int:
    """How many directories the kernel watches."""
    lines = Path(f"/proc/self/fdinfo/{seen.inotify.fileno()}").read_text().splitlines()
    return sum(line.startswith("inotify ") for line in lines)
