"""Parsed documents whose every value knows its place in the text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .faults import Path, SyntaxFault

Place = tuple[int, int]
"""Line and column, both from 1."""

MOST_DEPTH = 50
MOST_VALUES = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value of a document.

    Attributes:
        value: A scalar, a list of nodes, or nodes by their names.
        place: Where it stands.
        keys: Where the name of each field stands, for a mapping.
        size: Number of values in it, itself included; what an alias repeats counts each time.
        depth: Number of levels in it, itself included.
    """

    value: str | int | float | bool | list[Node] | dict[str, Node] | None
    place: Place
    keys: dict[str, Place] = field(default_factory=dict[str, Place])
    size: int = 1
    depth: int = 1

    @classmethod
    def of_list(cls, items: list[Node], place: Place) -> Node:
        """Make a list.

        Raises:
            SyntaxFault: It is too deep or too large.
        """
        size, depth = _measures(items, place)
        return cls(value=items, place=place, size=size, depth=depth)

    @classmethod
    def of_fields(cls, fields: dict[str, Node], keys: dict[str, Place], place: Place) -> Node:
        """Make a mapping.

        Raises:
            SyntaxFault: It is too deep or too large.
        """
        size, depth = _measures(list(fields.values()), place)
        return cls(value=fields, place=place, keys=keys, size=size, depth=depth)

    def plain(self) -> Any:
        """Return the value without places. Fields that are null are left out: null means the default."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {name: item.plain() for name, item in self.value.items() if item.value is not None}
        return self.value

    def place_of(self, path: Path, *, name: bool = False) -> Place:
        """Return the place of a value, or of the name of a field; of what is nearest above it if there is none."""
        node, place = self, self.place
        for number, part in enumerate(path, 1):
            match node.value:
                case dict() if isinstance(part, str) and part in node.value:
                    place = node.keys[part]
                    node = node.value[part]
                    if not (name and number == len(path)):
                        place = node.place
                case list() if isinstance(part, int) and part < len(node.value):
                    node = node.value[part]
                    place = node.place
                case _:  # the name of an alternative in a validator's path
                    continue
        return place


def _measures(items: list[Node], place: Place) -> tuple[int, int]:
    size = 1 + sum(item.size for item in items)
    depth = 1 + max((item.depth for item in items), default=0)
    if depth > MOST_DEPTH:
        raise SyntaxFault(*place, f"is nested deeper than {MOST_DEPTH} levels: flatten it")
    if size > MOST_VALUES:
        raise SyntaxFault(
            *place, f"has more than {MOST_VALUES} values, those that aliases repeat included: use fewer aliases"
        )
    return size, depth
