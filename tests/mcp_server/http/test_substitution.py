"""A text that is replaced in a stream, however the stream is cut."""

from __future__ import annotations

import pytest

from mcp_server.http.substitution import Substitution


def through(pieces: list[bytes]) -> tuple[bytes, bool]:
    substitution = Substitution(b"abac", b"new")
    given = [substitution.put(piece, end=number == len(pieces) - 1) for number, piece in enumerate(pieces)]
    return b"".join(given), substitution.done


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        (b"12abac34abac", b"12new34abac", True),
        (b"ababac", b"abnew", True),
        (b"1abab", b"1abab", False),
        (b"aba", b"aba", False),
        (b"", b"", False),
    ],
)
def test_only_the_first_occurrence_is_replaced_wherever_the_stream_is_cut(
    text: bytes, wanted: bytes, *, found: bool
) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert through([text[:first], text[first:second], text[second:]]) == (wanted, found)


def test_nothing_is_held_back_that_cannot_be_the_beginning() -> None:
    substitution = Substitution(b"abac", b"new")
    assert substitution.put(b"data: 1\r\n\r\n") == b"data: 1\r\n\r\n"
    assert substitution.put(b"xab") == b"x"
    assert substitution.put(b"b") == b"abb"
