"""The screen that a terminal's output makes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_server.terminals.emulator import Emulator


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


@pytest.mark.parametrize(
    "row",
    [
        "I \u2764\ufe0f text",
        "a\u200bb",
        "\u200fright to left",
        "\ufeffwith a mark of its order",
        "soft\u00adhyphen",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
        "\U0001f44d\U0001f3fd skin",
        "1\ufe0f\u20e3 key",
        "\u0915\u094d\u0937\u093f letters",
        "\u6f22\u0301 marked",
        "\u0301 alone",
    ],
    ids=ascii,
)
def test_nothing_of_a_row_is_lost_to_a_character_without_width(row: str) -> None:
    assert fed(row.encode(), cols=40).text()[0] == row


def test_controls_of_unicode_and_of_old_take_no_text_along() -> None:
    # A quotation mark of UTF-8 that was encoded twice holds what once began a string.
    assert fed("a\u0085b \u00e2\u0080\u009d c\x01\x02d\u2028e\x7f".encode()).text()[0] == "ab \u00e2 cde"


@pytest.mark.parametrize(
    ("written", "row"),
    [
        ("\u6f22\u5b57\ra", "a \u5b57"),
        ("\u6f22\u5b57\x1b[2Ga", " a\u5b57"),
        ("\u6f22\u5b57\x1b[3Gab", "\u6f22ab"),
        ("\u6f22\u5b57\x1b[2G\x1b[X", "  \u5b57"),
        ("\u6f22\u5b57\x1b[2G\x1b[P", " \u5b57"),
        ("\u6f22\u5b57\x1b[2G\x1b[@", "   \u5b57"),
        ("\u6f22\u5b57\x1b[4G\x1b[K", "\u6f22"),
        ("\u6f22\u5b57\x1b[3G\x1b[1K", ""),
        ("\u6f22b\r\x1b[4h\u5b57-", "\u5b57-\u6f22b"),
        ("x" * 18 + "\u6f22\r\x1b[@", " " + "x" * 18),
        ("\u2764\ufe0f \x1b[2G-", "\u2764\ufe0f-"),
        ("0123456789abcdefghij\r\x1b[@\x1b[P", "0123456789abcdefghi"),
    ],
    ids=ascii,
)
def test_half_a_wide_letter_leaves_a_blank(written: str, row: str) -> None:
    assert fed(written.encode()).text()[0] == row


def test_a_wide_letter_that_does_not_fit_goes_into_the_next_row() -> None:
    emulator = fed(("x" * 19 + "\u6f22\u5b57").encode())
    assert emulator.text()[:2] == ("x" * 19, "\u6f22\u5b57")
    assert emulator.shows("x\u6f22\u5b57")


def test_a_letter_that_becomes_wide_in_the_last_column_goes_into_the_next_row() -> None:
    assert fed(("x" * 19 + "\u2764\ufe0f-").encode()).text()[:2] == ("x" * 19, "\u2764\ufe0f-")


@pytest.mark.parametrize(
    "unseen",
    [
        "\x1b[!p",
        "\x1b[>1u",
        "\x1b[<u",
        "\x1b[=1;1u",
        "\x1b[4:3m",
        "\x1b[38:2::1:2:3m",
        "\x1b[?1$p",
        '\x1b[1"q',
        "\x1b[2 q",
        "\x1b[1\x1b[m",
        "\x1b[\x00m",
        "\x1b[\x7fm",
        "\x1b[1?2m",
        "\x1b[" + "1;" * 500 + "m",
        "\x1b*0",
        "\x1b F",
        "\x1b%G",
        "\x1bP1$r0m\x1b\\",
        "\x1b_Gdata\x1b\\",
        "\x1b^private\x1b\\",
        "\x1bXstring\x1b\\",
        "\x1bktitle\x1b\\",
        "\x1b]\x07",
        "\x1b]0;title\x07",
        "\x1b]8;;http://a.test\x1b\\",
        "\x1b]0;ended by the next\x1b[m",
        "\x1b]52;c;" + "A" * 100_000 + "\x07",
        "\x1b]P1ff0000",
        "\x1b]R",
    ],
    ids=lambda unseen: ascii(unseen[:12]),
)
def test_what_is_no_text_does_not_show_as_text(unseen: str) -> None:
    assert fed(f"a{unseen}b".encode()).text()[0] == "ab"


def test_lines_are_drawn_with_letters_where_a_program_asks_for_that() -> None:
    assert fed(b"\x1b(0lqk\x1b(Bq\r\n\x1b)0\x0emj\x0fm").text()[:2] == ("\u250c\u2500\u2510q", "\u2514\u2518m")
    assert fed(b"\x0eletters").text()[0] == "letters"


def test_a_letter_is_repeated_as_far_as_the_row_goes() -> None:
    assert fed(b"a\x1b[3b-\x1b[999b").text()[:2] == ("aaaa" + "-" * 16, "")
    assert fed(b"a\r\x1b[3b").text()[0] == "a"


def test_the_cursor_comes_back_to_a_place_as_often_as_a_program_likes() -> None:
    assert fed(b"ab\x1b7cd\x1b8e\x1b8f\x1b[s\x1b[H\x1b[ug\x1b[uh").text()[0] == "abfh"


def test_text_outside_the_margins_stays_where_it_is() -> None:
    assert fed(b"\x1b[1;3r\x1b[4;1Ha\r\nb\r\nc\x1b[9A\x1b[r-").text() == ("-", "", "", "a", "c")


def test_clearing_what_scrolled_off_leaves_the_screen() -> None:
    assert fed(b"text\x1b[3J").text()[0] == "text"


def test_numbers_of_private_modes_mean_nothing_without_their_mark() -> None:
    emulator = fed(b"\x1b[96h\x1b[32h\x1b[224l" + b"x" * 25)
    assert emulator.size == (20, 5)
    assert not emulator.application_cursor
    assert emulator.text()[1] == "x" * 5


def test_a_title_is_what_was_said_to_be_one() -> None:
    assert fed(b"\x1b]2;mine\x07\x1b]22;pointer\x07\x1b]10;?\x07").title == "mine"
    assert fed(b"\x1b]0;" + b"t" * 100_000 + b"\x07").title == "t" * 200


def test_questions_are_answered_whatever_the_cursor_counts_from() -> None:
    assert Emulator(20, 5).feed(b"\x1b[?6h\x1b[6n") == b"\x1b[1;1R"
    assert Emulator(20, 5).feed(b"x" * 20 + b"\x1b[6n") == b"\x1b[1;20R"
    assert Emulator(20, 5).feed(b"\x1b[c\x1b[>c\x1b[5n") == b"\x1b[?6c\x1b[>0;0;0c\x1b[0n"


def test_a_smaller_screen_keeps_the_rows_around_the_cursor() -> None:
    emulator = fed(b"one\r\ntwo")
    emulator.resize(10, 3)
    assert emulator.text() == ("one", "two", "")
    emulator.feed(b"\r\nthree\r\nfour\x1b[?1049h")
    emulator.resize(10, 2)
    emulator.feed(b"\x1b[?1049l-")
    assert emulator.text() == ("three", "four-")


def test_a_wider_screen_has_tab_stops_and_no_remains() -> None:
    emulator = fed("\u6f22\u5b57\u6f22".encode(), cols=6)
    emulator.resize(5, 5)
    emulator.resize(20, 5)
    emulator.feed(b"\r\n\ta\tb")
    assert emulator.text()[:2] == ("\u6f22\u5b57", " " * 8 + "a" + " " * 7 + "b")


_SEQUENCES = st.from_regex(rb"\x1b[\[\]()#P?][0-9;?>]{0,8}[ -~]", fullmatch=True)
_WRITTEN = st.lists(_SEQUENCES | st.binary(max_size=40) | st.text(max_size=20).map(str.encode), max_size=20)
_LETTERS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs", "Mn", "Mc", "Me", "Cf"])
_MARKS = st.sampled_from("\u0301\u200b\u200d\u200f\ufe0e\ufe0f\u20e3\u0e33\u093e\u094d\u1161\U0001f3fd\U0001f1e9")
_ROWS = st.lists(st.tuples(_LETTERS, st.text(_LETTERS | _MARKS, max_size=9)).map("".join), max_size=5)
_EXAMPLES = settings(max_examples=100)


@_EXAMPLES
@given(_ROWS)
def test_every_character_of_rows_that_fit_is_shown(rows: list[str]) -> None:
    assert fed("\r\n".join(rows).encode(), cols=30).text() == (*rows, *[""] * (5 - len(rows)))


@_EXAMPLES
@given(_ROWS)
def test_every_character_is_shown_in_narrow_rows_too(rows: list[str]) -> None:
    text = "".join(rows)
    assert "".join(fed(text.encode(), cols=4, rows=60).text()) == text


@_EXAMPLES
@given(_WRITTEN, st.integers(1, 9))
@example([b"a", b"\x1b[b"], 1)
def test_output_in_pieces_makes_the_same_screen(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    emulator = Emulator(20, 5)
    for start in range(0, len(whole), size):
        emulator.feed(whole[start : start + size])
    assert (emulator.text(), emulator.cursor, emulator.title) == (
        fed(whole).text(),
        fed(whole).cursor,
        fed(whole).title,
    )


@_EXAMPLES
@given(_WRITTEN, st.integers(1, 20), st.integers(1, 5))
def test_nothing_that_a_guest_writes_breaks_the_screen(parts: list[bytes], cols: int, rows: int) -> None:
    emulator = fed(b"".join(parts))
    for size in [(20, 5), (cols, rows), (20, 5)]:
        emulator.resize(*size)
        assert emulator.size == size
        assert len(emulator.text()) == size[1]
        row, column = emulator.cursor
        assert 1 <= row <= size[1]
        assert 1 <= column <= size[0]
        emulator.feed(b"\x1b[?7h\r\n" + b"".join(parts))
