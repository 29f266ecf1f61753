"""Output cut into events, whatever the pieces, and put together again by the clients' parsers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.rest.lines import Lines, event

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
JAVASCRIPT_BLANKS = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""What `trimEnd` takes off."""
texts = st.text(st.sampled_from(f"ab ü€😀:\u00a0\ufeff\x1f{BREAKS}"), max_size=40)
places = st.lists(st.tuples(st.integers(0, 160), st.booleans()))
words = st.lists(st.sampled_from(["data:", "event: x", "ünï", "a", "€"]), min_size=1).map(" ".join)


def cut(pieces: list[bytes], pauses: list[bool] | None = None) -> list[str]:
    lines = Lines()
    found: list[str] = []
    for number, piece in enumerate(pieces):
        found += lines.feed(piece)
        if pauses and pauses[number]:
            found += lines.pause()
    return found + lines.end()


def pieces_of(text: str, places: list[tuple[int, bool]]) -> tuple[list[bytes], list[bool]]:
    """A text in pieces that end anywhere, and after which of them there is a pause."""
    data = text.encode()
    inner = sorted((min(place, len(data)), pause) for place, pause in places)
    ends = [0, *(place for place, _ in inner), len(data)]
    return [data[start:end] for start, end in pairwise(ends)], [*(pause for _, pause in inner), False]


def python_client(wire: str) -> list[str]:
    """The events' texts as VoidRun's client for Python reads them, in our words."""
    found: list[str] = []
    fields: list[str] = []
    for line in httpx.Response(200, text=wire).iter_lines():
        if line.startswith("data:"):
            fields.append(line[5:].strip())
        elif not line and fields:
            found.append("\n".join(fields))
            fields = []
    return found


def typescript_client(wire: str) -> list[str]:
    """The same for its client for TypeScript, which drops empty texts."""
    blocks = wire.split("\n\n")[:-1]
    read = [
        "\n".join(_trim_end(line[5:]) for line in block.split("\n") if line.startswith("data:")) for block in blocks
    ]
    return [text for text in read if text]


def _trim_end(text: str) -> str:
    return text.rstrip(JAVASCRIPT_BLANKS)


CLIENTS = pytest.mark.parametrize("client", [python_client, typescript_client])
Client = Callable[[str], list[str]]


def seen(client: Client, events: list[str]) -> str:
    return "".join(client("".join(event("stdout", text) for text in events)))


def joined(text: str) -> str:
    """A text with line feeds in place of all line separators."""
    lines = text.splitlines()
    return "\n".join(lines) + ("\n" if lines and not text.endswith(lines[-1] or "\0") else "")


@given(texts, places)
def test_the_output_does_not_depend_on_the_pieces(text: str, places: list[tuple[int, bool]]) -> None:
    pieces, pauses = pieces_of(text, places)
    assert cut(pieces) == joined(text).splitlines(keepends=True)
    assert "".join(cut(pieces, pauses)) == joined(text)


@pytest.mark.parametrize(("client", "loses"), [(python_client, str.strip), (typescript_client, _trim_end)])
@given(texts, places)
def test_the_clients_see_all_but_what_they_take_off_the_ends_of_lines(
    client: Client, loses: Callable[[str], str], text: str, places: list[tuple[int, bool]]
) -> None:
    wanted = "\n".join(loses(line) for line in joined(text).split("\n"))
    assert seen(client, cut(*pieces_of(text, places))) == wanted


@CLIENTS
@given(st.lists(words), st.booleans(), places)
def test_both_clients_see_lines_without_such_blanks_exactly(
    client: Client, lines: list[str], ended: bool, places: list[tuple[int, bool]]
) -> None:
    text = "\n".join(lines) + ("\n" if lines and ended else "")
    assert seen(client, cut(*pieces_of(text, places))) == text


@CLIENTS
def test_a_line_of_any_length_arrives_whole(client: Client) -> None:
    line = "one two " * 50_000 + "end"
    lines = Lines()
    found = lines.feed(line.encode())
    assert len(found) == 1
    assert seen(client, [*found, *lines.end()]) == line


def test_a_line_without_a_place_to_split_it_is_split_anywhere_in_the_end() -> None:
    lines = Lines()
    assert lines.feed(b" " * 1_000_000) == []
    assert lines.feed(b" " * 100_000) == [" " * 1_100_000]
    assert lines.end() == []


def test_a_part_of_a_line_is_shown_at_a_pause_but_for_its_end() -> None:
    lines = Lines()
    assert lines.feed(b"sure? ") == []
    assert lines.pending
    assert lines.pause() == ["sure"]
    assert not lines.pending
    assert lines.pause() == []
    assert lines.feed(b"yes\r") == ["? yes\n"]
    assert lines.feed(b"\nnext\n") == ["next\n"]


def test_an_unfinished_line_is_shown_but_for_the_blanks_at_its_end() -> None:
    lines = Lines()
    assert lines.feed(b"go on? ") == []
    assert lines.unfinished
    assert lines.show() == ["go on?"]
    assert not lines.unfinished
    assert lines.show() == []
    assert lines.feed(b"yes\n") == [" yes\n"]


def test_empty_lines_are_events_for_all_clients() -> None:
    assert event("stdout", "\n") == "event: stdout\ndata:\ndata:\n\n"
    assert python_client(event("stdout", "\n")) == typescript_client(event("stdout", "\n")) == ["\n"]


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"a\xe2\x82"])
def test_bytes_that_are_no_text_are_replaced(data: bytes) -> None:
    assert cut([data])[0].endswith("\N{REPLACEMENT CHARACTER}")


def test_the_client_library_splits_as_expected() -> None:
    """The assumption behind all this."""
    answer = httpx.Response(200, text="a\x85b\x1cc\rd")
    assert list(answer.iter_lines()) == ["a", "b", "c", "d"]
