"""Forks: children of one moment, each a sandbox of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import CasemateError, InvalidInput
from ..sandboxes.sandbox import Sandbox

MOST = 100
_NAME_LENGTH = 253
_LABEL_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What became of one child: a sandbox, or why there is none."""

    sandbox: Sandbox | None = None
    error: CasemateError | None = None


def check_count(count: int) -> None:
    """Refuse a number of children that cannot be.

    Raises:
        InvalidInput: It is not 1 to 100.
    """
    if not 1 <= count <= MOST:
        raise InvalidInput(f"count: {str(count)[:80]} forks cannot be made at once", hint=f"Use 1 to {MOST}")


def child_names(name: str, taken: Collection[str], count: int) -> list[str]:
    """Names for children: the parent's with the first numbers that are free, cut where names have their limits."""
    names: list[str] = []
    number = 1
    while len(names) < count:
        ending = f"-{number}"
        head, dot, last = name.rpartition(".")
        room = min(_LABEL_LENGTH, _NAME_LENGTH - len(head + dot)) - len(ending)
        candidate = f"{head}{dot}{last[:room].rstrip('-')}{ending}"
        if candidate not in taken:
            names.append(candidate)
        number += 1
    return names
