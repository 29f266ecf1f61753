"""Output cut into lines, whatever the pieces."""

from __future__ import annotations

from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.rest.lines import Lines, event

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
texts = st.text(st.sampled_from(f"ab ü€😀:{BREAKS}"), max_size=40)


def cut(pieces: list[bytes]) -> list[str]:
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)]
    return found + lines.end()


@given(texts, st.lists(st.integers(0, 60)))
def test_lines_do_not_depend_on_the_pieces(text: str, places: list[int]) -> None:
    data = text.encode()
    ends = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    assert cut([data[start:end] for start, end in pairwise(ends)]) == text.splitlines()


@given(texts)
def test_clients_find_every_line_in_its_event(text: str) -> None:
    """Both of VoidRun's: one splits like httpx and takes a blank away, the other at blank lines."""
    lines = text.splitlines()
    wire = "".join(event("stdout", line) for line in lines)
    data = [line.removeprefix("data:").removeprefix(" ") for line in wire.splitlines() if line.startswith("data:")]
    assert data == lines
    assert len(wire.split("\n\n")) == len(lines) + 1


def test_a_line_without_end_comes_in_parts() -> None:
    lines = Lines()
    found = lines.feed(b"x" * 70_000)
    assert found == ["x" * 70_000]
    assert lines.end() == []


def test_a_flushed_line_goes_on_in_the_next_one() -> None:
    lines = Lines()
    assert lines.feed(b"sure? ") == []
    assert lines.pending
    assert lines.flush() == ["sure? "]
    assert not lines.pending
    assert lines.feed(b"yes\r") == ["yes"]
    assert lines.feed(b"\nnext\n") == ["next"]


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"a\xe2\x82"])
def test_bytes_that_are_no_text_are_replaced(data: bytes) -> None:
    assert cut([data])[0].endswith("\N{REPLACEMENT CHARACTER}")


def test_the_client_library_splits_as_expected() -> None:
    """The assumption behind all this."""
    answer = httpx.Response(200, text="a\x85b\x1cc\rd")
    assert list(answer.iter_lines()) == ["a", "b", "c", "d"]
