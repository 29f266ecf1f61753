"""Values in error texts stay short and on one line, whatever somebody sent."""

from storage.shown import shown


def test_a_short_value_is_quoted_as_it_is() -> None:
    assert shown("two\nlines") == r"'two\nlines'"


def test_a_long_value_is_cut() -> None:
    assert shown("x" * 81) == f"'{'x' * 79}…"
    assert shown({"name": "x" * 81}, limit=10) == "{'name': '…"


def test_a_number_too_long_to_write_out_is_measured() -> None:
    assert shown(1 << 20_000) == "a number of 20001 bits"
