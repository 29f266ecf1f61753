"""Names that were not found, and the ones that were probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST = 12
_COMPARED = 200
_SHOWN = 80


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name: with the nearest one, or with all if none is near.

    Args:
        what: What it should be the name of, such as `field`.
        name: The name.
        known: All that would do.
    """
    names = list(known)
    near = get_close_matches(name[:_SHOWN], [one[:_SHOWN] for one in names[:_COMPARED]], n=1)
    shown = f"there is no {what} {name[:_SHOWN]!r} here"
    if near:
        return f"{shown}: did you mean {near[0]}?"
    more = "" if len(names) <= _MOST else f" and {len(names) - _MOST} more"
    return f"{shown}: known are {', '.join(names[:_MOST])}{more}" if names else f"{shown}: there are none"
