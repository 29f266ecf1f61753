"""YAML, read from the parser's events: scalars as in YAML 1.2, aliases within bounds, no tags, one document.

YAML 1.2 is what VoidBox reads: `on`, `no` and `1:30` are texts. The events alone carry the places of all values,
and reading them needs no recursion, so that a hostile file can exhaust neither stack nor memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from .faults import Fault, SyntaxFault
from .node import MOST_DEPTH, Node, Place

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_parse: Callable[..., Iterator[yaml.Event]] = getattr(yaml, "parse")  # noqa: B009 -- its type is not complete
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,50}|[0-9]{1,50}(?:\.[0-9]{0,50})?)(?:[eE][-+]?[0-9]{1,3})?")
_TEXT = "tag:yaml.org,2002:str"


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end is yet to come."""

    place: Place
    anchor: str | None
    mapping: bool
    items: list[Node] = field(default_factory=list[Node])
    fields: dict[str, Node] = field(default_factory=dict[str, Node])
    keys: dict[str, Place] = field(default_factory=dict[str, Place])
    key: tuple[str, Place] | None = None


def parse_yaml(text: str) -> tuple[Node, list[Fault]]:
    """Parse a document; the faults are those after which reading could go on.

    Raises:
        SyntaxFault: It cannot be read.
    """
    return _Reader().read(_events(text))


def _events(text: str) -> Iterator[yaml.Event]:
    lines = text.split("\n")
    try:
        yield from _parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        if line >= len(lines):  # libyaml sees the end of the text on a line of its own
            line, column = len(lines) - 1, len(lines[-1])
        here = lines[line]
        if here[column : column + 1] == "\t" or "\t" in here[: len(here) - len(here.lstrip())]:
            column = max(here.find("\t"), 0)
            raise SyntaxFault(line + 1, column + 1, "is indented with a tab: YAML takes spaces only") from None
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise SyntaxFault(line + 1, column + 1, f"is not valid YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise SyntaxFault(line, column, "has a character that YAML does not allow: remove it") from None


class _Reader:
    def __init__(self) -> None:
        self._anchors: dict[str, Node] = {}
        self._stack: list[_Open] = []
        self._root: Node | None = None
        self._faults: list[Fault] = []

    def read(self, events: Iterator[yaml.Event]) -> tuple[Node, list[Fault]]:
        for event in events:
            match event:
                case yaml.DocumentStartEvent() if self._root is not None:
                    raise SyntaxFault(*_place(event), "starts a second document: a file has one spec")
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._open(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._close()
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case _:
                    pass
        return self._root or Node(value=None, place=(1, 1)), self._faults

    def _open(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
        place = _place(event)
        if event.tag is not None and event.tag != "!":
            raise SyntaxFault(*place, f"has the tag {event.tag}: tags are not supported, remove it")
        if self._wants_key():
            raise SyntaxFault(*place, "is a list or mapping in place of a field's name: write a text")
        if len(self._stack) >= MOST_DEPTH:
            raise SyntaxFault(*place, f"is nested deeper than {MOST_DEPTH} levels: flatten it")
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._stack.append(_Open(place=place, anchor=event.anchor, mapping=mapping))

    def _close(self) -> None:
        done = self._stack.pop()
        if done.mapping:
            node = Node.of_fields(done.fields, done.keys, done.place)
        else:
            node = Node.of_list(done.items, done.place)
        self._add(node, done.anchor)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        place = _place(event)
        if event.tag not in {None, "!", _TEXT}:
            raise SyntaxFault(*place, f"has the tag {event.tag}: tags are not supported, remove it")
        if self._wants_key():
            self._key(event, place)
            return
        plain = not event.style and event.tag is None
        value = _resolved(event.value) if plain else event.value
        self._add(Node(value=value, place=place), event.anchor)

    def _key(self, event: yaml.ScalarEvent, place: Place) -> None:
        top = self._stack[-1]
        if event.value == "<<" and not event.style:
            raise SyntaxFault(*place, "is a merge key (<<), which specs do not have: write the fields out")
        if event.value in top.fields:
            first = top.keys[event.value]
            message = f"the field {event.value!r} stands here twice, first in line {first[0]}: remove one"
            self._faults.append(Fault(line=place[0], column=place[1], path="", message=message))
        top.key = (event.value, place)

    def _alias(self, event: yaml.AliasEvent) -> None:
        place = _place(event)
        if self._wants_key():
            raise SyntaxFault(*place, "is an alias in place of a field's name: write a text")
        if event.anchor not in self._anchors:
            raise SyntaxFault(*place, f"is an alias of {event.anchor!r}, which no anchor before it defines")
        self._add(self._anchors[event.anchor], None)

    def _wants_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].mapping and self._stack[-1].key is None

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if top.key is None:
            top.items.append(node)
            return
        name, place = top.key
        top.fields[name], top.keys[name], top.key = node, place, None


def _place(event: yaml.Event) -> Place:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _resolved(text: str) -> str | int | float | bool | None:
    """Return the value of a plain scalar under YAML 1.2's core schema, without infinities."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text
