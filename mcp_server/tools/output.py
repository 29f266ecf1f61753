"""Shapes a process's output into text for a model: clean, within a budget, with its end and its errors.

Everything here is a pure function of bytes. A result that fits is returned whole. A longer one keeps its head, its tail
and the lines between them that look like errors, and says which bytes are missing and how to read them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmm.guest.values import Captured

DEFAULT_BUDGET = 16_000
"""Default size of a result in characters: about 4,000 tokens."""

MAX_BUDGET = 80_000
"""Maximum size of a result in characters: about 20,000 tokens."""

MIN_BUDGET = 1_000

_ESCAPES = re.compile(
    r"\x1b[\]PX^_][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\|$)"  # titles, links, device control and other strings
    r"|\x1b\[?[0-?]*[ -/]*[@-~]"  # control sequences and two-character escapes
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERROR = re.compile(
    rb"error|exception|traceback|fatal|fail(?:ed|ure)|panic|denied|not found|no such|cannot|undefined|"
    rb"segmentation|killed",
    re.IGNORECASE,
)
_SEGMENT = 400
_ERROR_LINES = 20
_ERROR_LINE = 300
_LONGEST_CHARACTER = 4
_NOTE = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """Text within its budget.

    Attributes:
        text: The text, with a note in brackets where something was left out.
        cut: Whether anything was left out.
        replaced: Whether bytes that are not UTF-8 were replaced.
    """

    text: str
    cut: bool
    replaced: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def budget_of(asked: int) -> int:
    """Determine the budget for a caller who asked for `asked` characters: 0 means the default; bounds always apply."""
    return DEFAULT_BUDGET if asked <= 0 else max(MIN_BUDGET, min(asked, MAX_BUDGET))


def clean(data: bytes) -> tuple[str, bool]:
    """Decode for reading: without escape sequences and control characters, and with progress lines in their last state.

    Returns:
        The text, and whether bytes that are not UTF-8 had to be replaced.
    """
    text = data.decode("utf-8", "replace")
    replaced = "\ufffd" in text and not _is_utf8(data)
    text = _ESCAPES.sub("", text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    return _CONTROLS.sub("", text), replaced


def whole_characters(data: bytes) -> int:
    """Count the leading bytes of `data` that are whole characters, which leaves out at most three bytes."""
    for back in range(1, min(_LONGEST_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) if back >= length else len(data) - back
        if byte < 0x80:
            break
    return len(data)


def shape(captured: Captured, budget: int, read_on: Callable[[int], str]) -> Shaped:
    """Fit one captured stream into `budget` characters.

    Args:
        captured: The stream, of which the head and the tail were kept.
        budget: The maximum number of characters, notes included.
        read_on: Returns the note that says how to read the stream from a byte offset on.
    """
    if captured.dropped == 0 and len(captured.head) + len(captured.tail) <= budget * _LONGEST_CHARACTER:
        text, replaced = clean(captured.data())
        if len(text) <= budget:
            return Shaped(text=text, cut=False, replaced=replaced)
    return _cut(captured, max(budget, MIN_BUDGET), read_on)


def share(budget: int, first: int, second: int) -> tuple[int, int]:
    """Split a budget between two texts: half each, and what one does not need goes to the other."""
    half = budget // 2
    if first <= half:
        return first, budget - first
    if second <= half:
        return budget - second, second
    return half, budget - half


def _cut(captured: Captured, budget: int, read_on: Callable[[int], str]) -> Shaped:
    """Compose head, note, error lines of the middle, and tail."""
    room = max(budget - _NOTE - len(read_on(captured.total)), _NOTE)
    tail_start = captured.total - len(captured.tail)
    blocks = [_Piece(0, captured.head), _Piece(tail_start, captured.tail)]
    if captured.dropped == 0:
        blocks = [_Piece(0, captured.data())]
    head, head_end, bad_head = _take(_pieces(blocks[0]), room * 3 // 10, 0, "forward")
    last = blocks[-1]
    if len(blocks) == 1:
        last = _Piece(head_end, last.data[head_end:])
    tail, tail_begin, bad_tail = _take(_pieces(last, reverse=True), room // 2, last.end, "backward")
    middle = [_within(block, head_end, tail_begin) for block in blocks]
    errors = _error_lines(middle, room - len(head) - len(tail))
    if head and not head.endswith("\n"):
        head += "\n"
    note = f"[{tail_begin - head_end} of {captured.total} bytes cut here. {read_on(head_end)}]\n"
    if errors:
        note += f"[in the cut, lines that look like errors:]\n{errors}\n[end of those lines]\n"
    return Shaped(text=head + note + tail, cut=True, replaced=bad_head or bad_tail)


def _pieces(block: _Piece, *, reverse: bool = False) -> Iterator[_Piece]:
    """Yield the block's lines with their line ends, long ones in segments, forwards or backwards."""
    data, base = block.data, block.offset
    if reverse:
        end = len(data)
        while end > 0:
            start = max(data.rfind(b"\n", 0, end - 1) + 1, end - _SEGMENT)
            start = _character_start(data, start, end)
            yield _Piece(base + start, data[start:end])
            end = start
        return
    start = 0
    while start < len(data):
        newline = data.find(b"\n", start, start + _SEGMENT)
        end = newline + 1 if newline >= 0 else min(start + _SEGMENT, len(data))
        if newline < 0 and end < len(data):
            end = start + whole_characters(data[start:end])
        yield _Piece(base + start, data[start:end])
        start = end


def _character_start(data: bytes, start: int, end: int) -> int:
    """Move `start` off the continuation bytes of a character that began before it."""
    for ahead in range(_LONGEST_CHARACTER):
        if start + ahead < end and data[start + ahead] & 0xC0 != 0x80:
            return start + ahead
    return start


def _take(
    pieces: Iterator[_Piece], room: int, edge: int, direction: Literal["forward", "backward"]
) -> tuple[str, int, bool]:
    """Clean pieces from `edge` on until the room is used up.

    Returns:
        The text, the byte offset where the taken part ends (forward) or begins (backward), whether bytes were replaced.
    """
    texts: list[str] = []
    replaced = False
    for piece in pieces:
        text, bad = clean(piece.data)
        if len(text) > room:
            break
        room -= len(text)
        texts.append(text)
        replaced = replaced or bad
        edge = piece.end if direction == "forward" else piece.offset
    if direction == "backward":
        texts.reverse()
    return "".join(texts), edge, replaced


def _within(block: _Piece, start: int, end: int) -> bytes:
    """Return the block's bytes between two offsets of the stream."""
    return block.data[max(start - block.offset, 0) : max(end - block.offset, 0)]


def _error_lines(blocks: list[bytes], room: int) -> str:
    """Find the first lines that look like errors, each cut to a maximum length."""
    found: list[str] = []
    for data in blocks:
        position = 0
        while len(found) < _ERROR_LINES and (match := _ERROR.search(data, position)):
            start = max(data.rfind(b"\n", 0, match.start()) + 1, match.start() - _ERROR_LINE // 2)
            newline = data.find(b"\n", match.end())
            stop = len(data) if newline < 0 else newline
            line = clean(data[start : min(stop, start + _ERROR_LINE)])[0].strip()
            position = stop
            if len(line) + 1 > room:
                return "\n".join(found)
            if line and line not in found:
                room -= len(line) + 1
                found.append(line)
    return "\n".join(found)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
