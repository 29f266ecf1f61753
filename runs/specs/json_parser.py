"""JSON, with the place of every value, which the standard library's parser does not tell."""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError, JSONDecoder
from typing import cast

from .faults import Fault, SyntaxFault
from .node import MOST_DEPTH, Node, Place

_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}
_MOST_DIGITS = 50
_decoder = JSONDecoder()


def parse_json(text: str) -> tuple[Node, list[Fault]]:
    """Parse a document; the faults are those after which reading could go on.

    Raises:
        SyntaxFault: It cannot be read.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at: int = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._faults: list[Fault] = []

    def read(self) -> tuple[Node, list[Fault]]:
        self._skip()
        if self._at == len(self._text):
            return Node(value=None, place=(1, 1)), []
        root = self._value(1)
        self._skip()
        if self._at < len(self._text):
            raise self._refused("something follows the end of the document")
        return root, self._faults

    def _value(self, depth: int) -> Node:
        if depth > MOST_DEPTH:
            raise SyntaxFault(*self._place(), f"is nested deeper than {MOST_DEPTH} levels: flatten it")
        place, letter = self._place(), self._text[self._at : self._at + 1]
        if letter == "{":
            return self._fields(depth)
        if letter == "[":
            return self._list(depth)
        if letter == '"':
            return Node(value=self._string(), place=place)
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return Node(value=value, place=place)
        return Node(value=self._number(), place=place)

    def _fields(self, depth: int) -> Node:
        place = self._place()
        fields: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        while self._more("}", first=not fields and not keys):
            key_place = self._place()
            if not self._text.startswith('"', self._at):
                raise self._refused("a field's name in double quotes is missing")
            name = self._string()
            if name in fields:
                message = f"the field {name!r} stands here twice, first in line {keys[name][0]}: remove one"
                self._faults.append(Fault(line=key_place[0], column=key_place[1], path="", message=message))
            self._skip()
            self._expect(":")
            fields[name], keys[name] = self._value(depth + 1), key_place
        return Node.of_fields(fields, keys, place)

    def _list(self, depth: int) -> Node:
        place = self._place()
        items: list[Node] = []
        while self._more("]", first=not items):
            items.append(self._value(depth + 1))
        return Node.of_list(items, place)

    def _more(self, end: str, *, first: bool) -> bool:
        """Step over an opening bracket or a comma, and return whether a value follows rather than the end."""
        if first:
            self._at += 1
            self._skip()
        else:
            self._skip()
            if self._text.startswith(end, self._at):
                self._at += 1
                return False
            self._expect(",")
            return True
        if self._text.startswith(end, self._at):
            self._at += 1
            return False
        return True

    def _expect(self, letter: str) -> None:
        if not self._text.startswith(letter, self._at):
            raise self._refused(f"{letter!r} is missing")
        self._at += 1
        self._skip()

    def _string(self) -> str:
        try:
            value, self._at = cast("tuple[str, int]", _decoder.raw_decode(self._text, self._at))
        except JSONDecodeError as error:
            self._at = error.pos
            raise self._refused(error.msg.removesuffix(" at").lower()) from None
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self._refused("half of a surrogate pair stands alone")
        return value

    def _number(self) -> int | float:
        found = _NUMBER.match(self._text, self._at)
        if found is None:
            raise self._refused("a value is missing" if self._at == len(self._text) else "this is not a value")
        if len(found[0]) > _MOST_DIGITS:
            raise self._refused(f"the number has more than {_MOST_DIGITS} digits")
        self._at = found.end()
        return float(found[0]) if found[2] or found[3] else int(found[1])

    def _skip(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _place(self) -> Place:
        line = bisect_right(self._starts, self._at)
        return line, self._at - self._starts[line - 1] + 1

    def _refused(self, what: str) -> SyntaxFault:
        return SyntaxFault(*self._place(), f"is not valid JSON: {what}")
