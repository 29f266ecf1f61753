"""Lists of a server's objects: a table for people, the whole of it for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import note, show_json, show_table
from .values import Object, amount, cell, moment

if TYPE_CHECKING:
    from collections.abc import Mapping


def show_records(found: list[Object], columns: Mapping[str, str], *, as_json: bool, nothing: str = "") -> None:
    """Write a list of objects.

    Args:
        found: The objects.
        columns: Headings of the table, each with the name of its field: a time if that ends in At, bytes if in Bytes.
        as_json: Write them as they are instead.
        nothing: What to say in place of a table without rows; the headings alone if empty.
    """
    if as_json:
        show_json(found)
    elif not found and nothing:
        note(nothing)
    else:
        show_table([tuple(columns), *(tuple(_shown(one, name) for name in columns.values()) for one in found)])


def _shown(record: Object, name: str) -> str:
    value = record.get(name)
    if name.endswith("At"):
        return moment(value)
    return amount(value) if name.endswith("Bytes") else cell(value)
