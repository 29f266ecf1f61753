"""How wide letters are, and which of them share a cell."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from wcwidth import iter_graphemes, wcswidth, wcwidth

from mcp_server.terminals.characters import joins, width
from mcp_server.terminals.emulator import Emulator

GROUPS = [
    "\u2764\ufe0f",
    "\u231a\ufe0e",
    "1\ufe0f\u20e3",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f469\u200d\u2764\ufe0f\u200d\U0001f468",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\u0915\u094d\u0937\u093f",
    "\u1100\u1161\u11a8",
    "e\u0301",
    "\u6f22\u0301",
]
PARTS = sorted({letter for group in GROUPS for letter in group} | {*"ab\u200b\u200f\u0e01\u0e33\u0600\u00ad\ufeff"})


@pytest.mark.parametrize("group", GROUPS, ids=ascii)
def test_letters_that_belong_together_share_a_cell(group: str) -> None:
    assert width(group) == wcswidth(group)
    assert all(joins(group[:end], group[end]) for end in range(1, len(group)))


@pytest.mark.parametrize("pair", ["ab", "a\u6f22", "\U0001f469\U0001f469", "a\U0001f3fd", "\u0e01\u0e33"], ids=ascii)
def test_others_do_not(pair: str) -> None:
    assert not joins(pair[0], pair[1])


def test_a_joiner_binds_only_what_unicode_says() -> None:
    assert joins("\U0001f469\u200d", "\U0001f469")
    assert not joins("\U0001f469\u200d", "\u6f22")


@settings(max_examples=200)
@given(st.text(st.sampled_from(PARTS), max_size=15) | st.text(max_size=9))
@example("\U0001f1e9\U0001f1ea\U0001f1eb")
def test_text_takes_the_columns_that_wcwidth_counts(text: str) -> None:
    shown = "".join(letter for letter in text if wcwidth(letter) >= 0 and letter not in "\u2028\u2029\x00")
    groups = list(iter_graphemes(shown))
    # A group that begins with a mark has no letter to measure, and one of more than sixteen characters no room.
    assume(all(wcwidth(group[0]) > 0 or not any(map(wcwidth, group)) for group in groups))
    assume(all(len(group) <= 16 for group in groups))
    emulator = Emulator(100, 2)
    emulator.feed(shown.encode())
    assert emulator.cursor == (1, 1 + sum(wcswidth(group) for group in groups))
