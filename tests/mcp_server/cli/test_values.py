"""Validation and formatting of values."""

from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.cli.console import CliError, plain
from mcp_server.cli.escapes import Escapes
from mcp_server.cli.values import amount, cell, check_ref, moment, parse_duration, parse_environment, parse_pairs


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 2_592_000), ("1w", 604_800)]
)
def test_durations_are_parsed(text: str, seconds: int) -> None:
    assert parse_duration(text, "--expires") == seconds


@pytest.mark.parametrize("text", ["", "1", "d", "0s", "-1h", "1.5h", "1y", "1 h", "9999999999s", "1h30m", "\u0661s"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="--expires"):
        parse_duration(text, "--expires")


def test_pairs_and_variables_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "home")
    assert parse_pairs(["a=b", "c=d=e", "f="], "--label") == {"a": "b", "c": "d=e", "f": ""}
    assert parse_environment(["A=b=c", "HERE", "_=x"]) == {"A": "b=c", "HERE": "home", "_": "x"}
    assert parse_pairs(None, "--label") == parse_environment(None) == {}


@pytest.mark.parametrize("ref", ["", ".", "..", "a/b", "-x", "a b", "a%2fb", "a\n", "ä", "x" * 300])
def test_invalid_ids_and_names_are_refused(ref: str) -> None:
    with pytest.raises(CliError):
        check_ref(ref)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (200 * 1024, "200 KiB"), (5 << 30, "5.0 GiB"), (None, "-")],
)
def test_sizes_are_formatted_with_a_unit(count: int | None, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2026-01-31T12:00:00.5Z", "2026-01-31 12:00:00"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31 10:00:00"),
        (0, "1970-01-01 00:00:00"),
        ("0001-01-01T00:00:00Z", "-"),
        ("", "-"),
        (None, "-"),
        (10**30, str(10**30)),
        ("soon", "soon"),
    ],
)
def test_times_are_formatted_to_the_second(value: object, text: str) -> None:
    assert moment(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), ([], "-"), ({}, "-"), (0, "0"), (False, "no"), (["a", 1], "a,1"), ({"k": "v"}, "k=v")],
)
def test_every_value_is_formatted_for_a_table(value: object, text: str) -> None:
    assert cell(value) == text


@given(st.text())
def test_untrusted_text_cannot_control_the_terminal(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable() or all(letter.isprintable() or category(letter) == "Zs" for letter in shown)
    assert not set(shown) & set(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2028, 0x200B]))


@pytest.mark.parametrize(
    ("typed", "sent", "left"),
    [
        (b"~.", b"", True),
        (b"ls\r~.", b"ls\r", True),
        (b"ls ~.", b"ls ~.", False),
        (b"~~.", b"~.", False),
        (b"~/x\r", b"~/x\r", False),
        (b"\r~~", b"\r~", False),
        (b"~.rest", b"", True),
        (b"a~.\r~x~.", b"a~.\r~x~.", False),
    ],
)
def test_a_tilde_and_a_dot_detach_only_at_the_start_of_a_line(typed: bytes, sent: bytes, left: bool) -> None:
    assert Escapes().feed(typed) == (sent, left)
    escapes = Escapes()
    pieces = [escapes.feed(bytes((byte,))) for byte in typed]
    assert any(gone for _, gone in pieces) == left
    end = next((index for index, (_, gone) in enumerate(pieces) if gone), len(pieces))
    assert b"".join(piece for piece, _ in pieces[:end]) == sent
