"""Forks: children made from one checkpoint, each a sandbox of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from storage.shown import shown

from ..errors import CasemateError, InvalidInput
from ..sandboxes.sandbox import Sandbox

MAX_FORKS = 100
_NAME_LENGTH = 253
_LABEL_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """The result for one child: a sandbox, or the error."""

    sandbox: Sandbox | None = None
    error: CasemateError | None = None


def check_count(count: int) -> None:
    """Refuse a number of children that is out of range.

    Raises:
        InvalidInput: It is not 1 to 100.
    """
    if not 1 <= count <= MAX_FORKS:
        raise InvalidInput(f"count must be 1 to {MAX_FORKS}, got {shown(count)}")


def child_names(name: str, taken: Collection[str], count: int) -> list[str]:
    """Name children after their parent, with the first free numbers, shortened to the limits of names."""
    names: list[str] = []
    number = 1
    while len(names) < count:
        ending = f"-{number}"
        head, dot, last = name.rpartition(".")
        space = min(_LABEL_LENGTH, _NAME_LENGTH - len(head + dot)) - len(ending)
        candidate = f"{head}{dot}{last[:space].rstrip('-')}{ending}"
        if candidate not in taken:
            names.append(candidate)
        number += 1
    return names
