"""The shaper: what a model gets to read of a process's output."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.tools.output import (
    DEFAULT_BUDGET,
    MAX_BUDGET,
    MIN_BUDGET,
    budget_of,
    clean,
    shape,
    share,
    whole_characters,
)
from vmm.guest.values import Captured


def read_on(offset: int) -> str:
    return f"go on at {offset}"


def captured(data: bytes, keep: int | None = None) -> Captured:
    if keep is None or len(data) <= 2 * keep:
        return Captured(head=data, total=len(data))
    return Captured(head=data[:keep], tail=data[-keep:], total=len(data), dropped=len(data) - 2 * keep)


def test_output_that_fits_is_given_whole() -> None:
    shaped = shape(captured(b"one\ntwo\n"), 1000, read_on)
    assert shaped.text == "one\ntwo\n"
    assert not shaped.cut


def test_colours_and_titles_are_taken_out() -> None:
    text, replaced = clean(b"\x1b]0;title\x07\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\x07")
    assert text == "red link"
    assert not replaced


def test_a_progress_line_keeps_its_last_state() -> None:
    assert clean(b"10%\r20%\r100%\r\ndone\r\n")[0] == "100%\ndone\n"


def test_bytes_that_are_not_utf8_are_replaced_and_reported() -> None:
    assert clean(b"a\xffb") == ("a\ufffdb", True)


def test_a_real_replacement_character_is_no_broken_byte() -> None:
    assert clean("a\ufffdb".encode()) == ("a\ufffdb", False)


def test_long_output_keeps_head_tail_and_the_errors_between() -> None:
    lines = [f"line {number}" for number in range(20_000)]
    lines[9_000] = "gcc: fatal error: no input files"
    shaped = shape(captured("\n".join(lines).encode()), DEFAULT_BUDGET, read_on)
    assert shaped.cut
    assert shaped.text.startswith("line 0\nline 1\n")
    assert shaped.text.endswith("line 19999")
    assert "gcc: fatal error: no input files" in shaped.text
    assert len(shaped.text) <= DEFAULT_BUDGET


def test_the_note_names_the_offset_at_which_the_cut_begins() -> None:
    data = b"".join(b"%06d\n" % number for number in range(50_000))
    shaped = shape(captured(data), DEFAULT_BUDGET, read_on)
    match = re.search(r"\[(\d+) of (\d+) bytes cut here. go on at (\d+)\]\n(\d+)\n", shaped.text)
    assert match is not None
    missing, total, offset, next_line = (int(part) for part in match.groups())
    assert total == len(data)
    assert offset % 7 == 0
    assert f"{offset // 7 - 1:06d}\n[" in shaped.text
    assert next_line * 7 == offset + missing


def test_what_the_agent_dropped_counts_as_cut() -> None:
    shaped = shape(captured(b"y\n" * 1_000_000, keep=2000), DEFAULT_BUDGET, read_on)
    assert shaped.cut
    assert "bytes cut here" in shaped.text
    assert len(shaped.text) <= DEFAULT_BUDGET


def test_a_gap_between_small_head_and_tail_is_still_told() -> None:
    shaped = shape(Captured(head=b"a\n", tail=b"z\n", total=1_000_000, dropped=999_996), DEFAULT_BUDGET, read_on)
    assert shaped.text == "a\n[999996 of 1000000 bytes cut here. go on at 2]\nz\n"


def test_one_endless_line_is_cut_too() -> None:
    shaped = shape(captured(b"x" * 500_000), DEFAULT_BUDGET, read_on)
    assert shaped.cut
    assert len(shaped.text) <= DEFAULT_BUDGET
    assert shaped.text.count("x") > DEFAULT_BUDGET // 2


def test_a_long_line_of_wide_characters_is_not_broken_within_one() -> None:
    shaped = shape(captured("\u20ac".encode() * 100_000), DEFAULT_BUDGET, read_on)
    assert "\ufffd" not in shaped.text
    assert not shaped.replaced


@pytest.mark.parametrize(
    ("asked", "given_budget"),
    [
        (0, DEFAULT_BUDGET),
        (-5, DEFAULT_BUDGET),
        (1, MIN_BUDGET),
        (30_000, 30_000),
        (10**9, MAX_BUDGET),
    ],
)
def test_budgets_have_bounds(asked: int, given_budget: int) -> None:
    assert budget_of(asked) == given_budget


def test_a_short_stream_leaves_its_share_to_the_other() -> None:
    assert share(100, 10, 500) == (10, 90)
    assert share(100, 500, 10) == (90, 10)
    assert share(100, 500, 500) == (50, 50)


@given(st.text(max_size=30), st.integers(min_value=0, max_value=3))
def test_cutting_at_whole_characters_always_decodes(text: str, cut: int) -> None:
    data = text.encode()
    part = data[: max(len(data) - cut, 0)]
    part[: whole_characters(part)].decode()


@given(st.binary(max_size=3000))
def test_cleaned_text_has_no_control_characters(data: bytes) -> None:
    text, _ = clean(data)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


@given(
    st.lists(st.binary(max_size=700) | st.text(max_size=200).map(str.encode), max_size=40),
    st.integers(MIN_BUDGET, 4000),
    st.integers(1, 3000) | st.none(),
)
def test_any_output_stays_within_its_budget(parts: list[bytes], budget: int, keep: int | None) -> None:
    data = b"\n".join(parts)
    shaped = shape(captured(data, keep), budget, read_on)
    assert len(shaped.text) <= budget
    if not shaped.cut:
        assert shaped.text == clean(data)[0]
