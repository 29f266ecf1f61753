"""The screen that a terminal's output makes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.emulator import Emulator


def fed(data: bytes, cols: int = 20, rows: int = 5) -> Emulator:
    emulator = Emulator(cols, rows)
    emulator.feed(data)
    return emulator


def test_text_stands_where_the_cursor_was_moved_to() -> None:
    emulator = fed(b"\x1b[2;3Hhere")
    assert emulator.text() == ("", "  here", "", "", "")
    assert emulator.cursor == (2, 7)


def test_lines_scroll_off_at_the_bottom() -> None:
    assert fed(b"1\r\n2\r\n3\r\n4\r\n5\r\n6").text() == ("2", "3", "4", "5", "6")


def test_leaving_a_full_screen_program_brings_the_shell_back() -> None:
    emulator = fed(b"$ vi\r\n\x1b[?1049h\x1b[H~ editor")
    assert emulator.text()[0] == "~ editor"
    emulator.feed(b"\x1b[?1049l$ ")
    assert emulator.text()[:2] == ("$ vi", "$")


def test_a_character_split_between_two_reads_is_whole() -> None:
    emulator = Emulator(10, 2)
    euro = "\u20ac".encode()
    emulator.feed(euro[:1])
    emulator.feed(euro[1:])
    assert emulator.text()[0] == "\u20ac"


def test_a_question_for_the_cursor_is_answered() -> None:
    assert Emulator(20, 5).feed(b"ab\x1b[6n") == b"\x1b[1;3R"


def test_a_text_is_found_in_a_row_over_rows_and_across_a_wrap() -> None:
    emulator = fed(b"first\r\nsecond\r\n" + b"x" * 18 + b"wrapped")
    assert emulator.shows("second")
    assert emulator.shows("first\nsecond")
    assert emulator.shows("wrapped")
    assert not emulator.shows("absent")


def test_titles_and_arrow_mode_are_known() -> None:
    emulator = fed(b"\x1b]2;my title\x07\x1b[?1h")
    assert emulator.title == "my title"
    assert emulator.application_cursor


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b[?m",
        b"\x1b[>4;2m",
        b"\x1b[?1r",
        b"\x1b[?3h",
        b"\x1b[1;2;3;4;5A",
        b"\x1b[99999999@",
        b"\x1b[?u",
        b"\x1b[5;1r",
    ],
)
def test_odd_sequences_do_not_disturb(sequence: bytes) -> None:
    emulator = fed(sequence + b"\x1b[Hok")
    assert "ok" in emulator.text()[0]
    assert emulator.size == (20, 5)


def test_a_flood_of_combining_marks_is_bounded() -> None:
    emulator = fed(b"e" + "\u0301".encode() * 50_000)
    assert len(emulator.text()[0]) < 20


def test_a_resize_is_followed() -> None:
    emulator = fed(b"hello")
    emulator.resize(40, 10)
    assert emulator.size == (40, 10)
    assert emulator.text()[0] == "hello"


@pytest.mark.parametrize(
    "trap", ["\x1b[ \u00b9m", "\x1b[\u2460;1m", "\x1b]0;\u00b2\x07", "\x1b[" + "9" * 5000 + "m"], ids=ascii
)
def test_numbers_that_are_none_do_not_end_the_screen(trap: str) -> None:
    emulator = fed(trap.encode())
    emulator.feed(b"\r\nstill here")
    assert emulator.shows("still here")


def test_a_superscript_is_a_letter_like_others() -> None:
    assert fed("m\u00b2 \u2460".encode()).text()[0] == "m\u00b2 \u2460"


_SEQUENCES = st.from_regex(rb"\x1b[\[\]()#P?][0-9;?>]{0,8}[ -~]", fullmatch=True)


@settings(max_examples=300)
@given(st.lists(_SEQUENCES | st.binary(max_size=40) | st.text(max_size=20).map(str.encode), max_size=20))
def test_nothing_that_a_guest_writes_breaks_the_screen(parts: list[bytes]) -> None:
    emulator = fed(b"".join(parts))
    assert emulator.size == (20, 5)
    assert len(emulator.text()) == 5
    row, column = emulator.cursor
    assert 1 <= row <= 5
    assert 1 <= column <= 20
