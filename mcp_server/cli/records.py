"""Lists of objects from a server: a table of selected columns, or complete JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import note, show_json, show_table
from .values import Object, amount, cell, moment

if TYPE_CHECKING:
    from collections.abc import Mapping


def show_records(found: list[Object], columns: Mapping[str, str], *, as_json: bool, nothing: str = "") -> None:
    """Print a list of objects.

    Args:
        found: The objects.
        columns: Field names by heading; fields named *At are shown as times, fields named *Bytes as sizes.
        as_json: Print the objects as JSON instead of a table.
        nothing: Message to print if there are no objects; if empty, the headings are printed alone.
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
