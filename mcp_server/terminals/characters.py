"""How characters share a terminal's cells: as wide as wcwidth's `wcswidth` has them.

A letter and what belongs to it stand in one cell: marks, variation selectors, skin tones, the halves of a flag, and
everything that a zero-width joiner binds. A cell is one or two columns wide.
"""

from __future__ import annotations

import functools
import unicodedata

from wcwidth import iter_graphemes, wcswidth, wcwidth

_MOST = 16
_WIDEST = 2
_VIRAMA = 9  # the combining class of marks that bind two consonants
_SEPARATORS = frozenset({"Zl", "Zp"})


@functools.lru_cache(maxsize=4096)
def width(cell: str) -> int:
    """Columns that a cell's text takes up: 0 for marks without a letter, else 1 or 2."""
    return min(_WIDEST, _columns(cell))


def grown(cell: str) -> bool:
    """Whether a wide cell begins with a narrow letter: what follows the letter makes it wide."""
    return wcwidth(_from_letter(cell)[:1]) == 1


@functools.lru_cache(maxsize=4096)
def shows(letter: str) -> bool:
    """Whether a character belongs on a screen at all: controls and separators of lines have no place there."""
    return wcwidth(letter) >= 0 and unicodedata.category(letter) not in _SEPARATORS


@functools.lru_cache(maxsize=4096)
def joins(cell: str, letter: str) -> bool:
    """Whether a character belongs into the cell before it, so that it takes no cell of its own.

    Of the characters without width a cell takes sixteen, which is more than any writing needs: whatever takes up no
    room could otherwise be stacked without end.
    """
    alone = wcwidth(letter)
    if alone == 0 or not cell:
        return alone == 0
    if len(cell) >= _MOST or sum(1 for _ in iter_graphemes(_from_letter(cell) + letter)) > 1:
        return False
    together = _columns(cell + letter)
    bound = any(unicodedata.combining(mark) == _VIRAMA for mark in _from_letter(cell))
    return together < width(cell) + alone or (bound and together <= _WIDEST)


def joined(cell: str, letter: str) -> str:
    """A cell's text with one more character in it, if it has room."""
    return cell + letter if len(cell) < _MOST else cell


def _columns(text: str) -> int:
    return sum(wcswidth(one) for one in iter_graphemes(_from_letter(text)))


def _from_letter(text: str) -> str:
    """Text without marks before its first letter, which say nothing about it."""
    return text[next((index for index, letter in enumerate(text) if wcwidth(letter) > 0), len(text)) :]
