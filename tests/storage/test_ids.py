# pyright: reportPrivateUsage=false
from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from itertools import chain, pairwise, repeat

from hypothesis import given
from hypothesis import strategies as st

from storage import ids
from storage.ids import IdSource, new_id


def test_an_id_has_24_hex_digits_and_begins_with_the_second() -> None:
    made = IdSource(clock=lambda: 0x66AABBCC).new_id()
    assert re.fullmatch(r"[0-9a-f]{24}", made)
    assert made.startswith("66aabbcc")


def test_ids_of_one_second_are_in_order() -> None:
    source = IdSource(clock=lambda: 1000.5)
    made = [source.new_id() for _ in range(5000)]
    assert made == sorted(set(made))


def test_ids_stay_in_order_when_the_counter_wraps_within_a_second() -> None:
    source = IdSource(clock=lambda: 1000)
    before = source.new_id()
    source._last |= ids._COUNTER_MASK - 1
    made = [before, *(source.new_id() for _ in range(4))]
    assert made == sorted(set(made))
    assert made[-1].endswith("000002")


def test_ids_stay_in_order_when_the_clock_is_set_back() -> None:
    times: Iterator[float] = chain([1000, 1000, 10, 5, 1000, 1001], repeat(1001))
    source = IdSource(clock=lambda: next(times))
    made = [source.new_id() for _ in range(10)]
    assert made == sorted(set(made))


@given(st.lists(st.floats(min_value=0, max_value=2**32 - 2), min_size=2))
def test_whatever_the_clock_says_ids_grow(times: list[float]) -> None:
    clock = iter(times)
    source = IdSource(clock=lambda: next(clock))
    made = [source.new_id() for _ in times]
    assert all(first < second for first, second in pairwise(made))


def test_threads_never_get_the_same_id() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(mine: list[str]) -> None:
        mine.extend(new_id() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(chain(*made))) == 16_000
    assert all(mine == sorted(mine) for mine in made)


def test_another_process_makes_other_ids() -> None:
    source = IdSource(clock=lambda: 1000)
    before = source.new_id()
    source._pid = os.getpid() + 1  # what a forked child would find
    assert source.new_id()[8:18] != before[8:18]
