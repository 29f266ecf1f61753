from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import StoreLocked
from storage.lock import FileLock, take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def held(path: Path) -> Iterator[FileLock]:
    lock = FileLock(path)
    lock.acquire()
    yield lock
    lock.release()


def test_a_lock_that_stays_is_refused_with_its_holder(held: FileLock, path: Path) -> None:
    del held
    with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()} "):
        FileLock(path).acquire()


def test_a_lock_that_is_let_go_within_a_moment_is_taken(held: FileLock, path: Path) -> None:
    release = threading.Timer(0.1, held.release)
    release.start()
    mine = FileLock(path)
    mine.acquire()
    release.join()
    mine.release()


def test_what_a_child_has_of_a_dead_holder_is_waited_for(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    take(descriptor)
    copy = os.dup(descriptor)  # what a forked child has until it becomes another program
    os.close(descriptor)
    close = threading.Timer(0.1, os.close, [copy])
    close.start()
    again = os.open(path, os.O_RDWR)
    take(again)
    close.join()
    os.close(again)
