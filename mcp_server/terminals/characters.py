"""Assigns characters to a terminal's cells, with the widths of wcwidth's `wcswidth`.

A grapheme occupies one cell: a letter with its marks, variation selectors and skin tones, the halves of a flag, and
everything that a zero-width joiner connects. A cell is one or two columns wide.
"""

from __future__ import annotations

import functools
import unicodedata

from wcwidth import iter_graphemes, wcswidth, wcwidth

_MOST = 16
_WIDEST = 2
_VIRAMA = 9  # the combining class of marks that join two consonants
_SEPARATORS = frozenset({"Zl", "Zp"})


@functools.lru_cache(maxsize=4096)
def width(cell: str) -> int:
    """Return the columns that a cell's text occupies: 0 for marks without a letter, else 1 or 2."""
    return min(_WIDEST, _columns(cell))


def grown(cell: str) -> bool:
    """Whether a wide cell begins with a narrow letter, and is wide only because of what follows it."""
    return wcwidth(_from_letter(cell)[:1]) == 1


@functools.lru_cache(maxsize=4096)
def shows(letter: str) -> bool:
    """Whether a character is shown on a screen, unlike controls and line separators."""
    return wcwidth(letter) >= 0 and unicodedata.category(letter) not in _SEPARATORS


@functools.lru_cache(maxsize=4096)
def joins(cell: str, letter: str) -> bool:
    """Whether a character belongs to the cell before it instead of a new one.

    A cell holds at most sixteen characters, more than any script needs, because characters without width could
    otherwise be stacked without limit.
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
    """Add a character to a cell's text, if there is room."""
    return cell + letter if len(cell) < _MOST else cell


def _columns(text: str) -> int:
    return sum(wcswidth(one) for one in iter_graphemes(_from_letter(text)))


def _from_letter(text: str) -> str:
    """Strip marks before the first letter, which do not affect the width."""
    return text[next((index for index, letter in enumerate(text) if wcwidth(letter) > 0), len(text)) :]
