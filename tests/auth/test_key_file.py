"""The local key's file: never readable by others, never half written."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from auth.errors import KeyFileError
from auth.key_file import read_key, write_key


def test_the_file_and_a_directory_made_for_it_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    before = os.umask(0)
    try:
        write_key(path, "cm_secret")
    finally:
        os.umask(before)
    assert path.read_text() == "cm_secret\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_key(tmp_path / "key", "cm_secret")
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_nobody_sees_a_file_that_is_open_to_others_or_half_written(tmp_path: Path) -> None:
    path, seen, stop = tmp_path / "key", set[tuple[int, int]](), threading.Event()
    write_key(path, "x" * 46)

    def watch() -> None:
        while not stop.is_set():
            for entry in os.scandir(tmp_path):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                seen.add((status.st_mode & 0o777, status.st_size if entry.name == "key" else 47))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = os.umask(0)
    try:
        for _ in range(50):
            write_key(path, "x" * 46)
    finally:
        os.umask(before)
        stop.set()
        watcher.join()
    assert seen == {(0o600, 47)}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / "key").symlink_to(target)
    write_key(tmp_path / "key", "cm_secret")
    assert target.read_text() == "untouched"
    assert not (tmp_path / "key").is_symlink()


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    with pytest.raises(KeyFileError, match="key file") as refused:
        write_key(tmp_path / "key", "cm_secret")
    assert "cm_secret" not in str(refused.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError):
        write_key(tmp_path / "file" / "key", "cm_secret")


def test_reading_makes_a_file_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(" cm_secret \n")
    path.chmod(0o644)
    assert read_key(path) == "cm_secret"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_file_reads_as_nothing(tmp_path: Path) -> None:
    assert not read_key(tmp_path / "no" / "key")


def test_a_file_of_something_else_is_read_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff\0" * 1_000_000)
    assert len(read_key(path)) <= 4096


def test_a_directory_or_a_pipe_in_its_place_is_an_error_or_nothing_but_never_a_wait(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(KeyFileError, match="directory"):
        read_key(tmp_path / "directory")
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert not read_key(tmp_path / "pipe")
