"""Whatever happens below a watched directory, and whenever it is read: who applies the changes has the tree."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vmm.agent.watched import Copy, paths, watched

NAMES = ("a", "b", "c")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)


def _make(top: Path, one: str, _other: str) -> None:
    (top / one).mkdir()


def _make_deep(top: Path, one: str, other: str) -> None:
    (top / one / other).mkdir(parents=True)


def _write(top: Path, one: str, _other: str) -> None:
    (top / one).write_text("x")


def _unlink(top: Path, one: str, _other: str) -> None:
    (top / one).unlink()


def _remove(top: Path, one: str, _other: str) -> None:
    shutil.rmtree(top / one)


def _rename(top: Path, one: str, other: str) -> None:
    (top / one).rename(top / other)


def _swap(top: Path, one: str, other: str) -> None:
    """Move a directory away and put another one with the same name in its place, as installers do."""
    (top / one).rename(top / other)
    (top / one).mkdir()
    (top / one / "new").write_text("x")


def _out(top: Path, one: str, _other: str) -> None:
    (top / one).rename(top.parent / "out" / os.urandom(8).hex())


def _in(top: Path, one: str, other: str) -> None:
    there = top.parent / "out" / os.urandom(8).hex()
    (there / other).mkdir(parents=True)
    (there / other / "came").write_text("x")
    there.rename(top / one)


STEPS: tuple[Callable[[Path, str, str], None], ...] = (
    _make, _make_deep, _write, _unlink, _remove, _rename, _swap, _out, _in,
)  # fmt: skip


def _do(step: Callable[[Path, str, str], None], top: Path, one: str, other: str) -> None:
    with suppress(OSError):  # What is not possible at the moment does nothing, or half of it.
        step(top, one, other)


@settings(deadline=None, max_examples=150)
@given(
    before=st.lists(st.tuples(st.sampled_from(STEPS), PATHS, PATHS), max_size=4),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), PATHS, PATHS, st.booleans()), max_size=14),
)
def test_the_changes_give_the_tree_whenever_they_are_read(
    before: list[tuple[Callable[[Path, str, str], None], str, str]],
    steps: list[tuple[Callable[[Path, str, str], None], str, str, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory, "top")
        top.mkdir()
        Path(directory, "out").mkdir()
        for step, one, other in before:
            _do(step, top, one, other)
        copy = Copy(top)
        with watched(top) as seen:
            for step, one, other, read in steps:
                _do(step, top, one, other)
                if read:
                    copy.apply(seen.drain())
            copy.apply(seen.drain())
            assert copy.found == paths(top)
            assert seen.drain() == []
            assert seen.known.share.names == len(copy.found)


def test_the_changes_give_the_tree_while_it_changes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "out").mkdir()
    copy = Copy(top)
    with watched(top) as seen:
        for seed in range(20):
            thread = threading.Thread(target=_busy, args=(top, random.Random(seed)))  # noqa: S311
            thread.start()
            while thread.is_alive():
                copy.apply(seen.drain())
            thread.join()
            copy.apply(seen.drain())
            assert copy.found == paths(top)


def _busy(top: Path, chance: random.Random) -> None:
    for _ in range(60):
        one, other = ("/".join(chance.choices(NAMES, k=chance.randint(1, 3))) for _ in range(2))
        _do(chance.choice(STEPS), top, one, other)
