"""The route that a caller of an unknown path may have meant, for the error message."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 200
_DEEPEST = 12
_LEAST = 0.6
_ANYTHING = "*"


class NearestRoute:
    """Finds the route whose path is most like another path.

    It knows the paths of routes alone, so that its answer tells nothing about what is behind them.

    Args:
        paths: The routes' paths, with parameters in braces.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._routes = {path: _parts(path) for path in paths}

    def to(self, path: str) -> str:
        """Return the path of the nearest route; empty if none is like it.

        Args:
            path: The path that was asked for; only its first 200 characters count.
        """
        asked = _parts(path[:_LONGEST])[:_DEEPEST]
        nearest, best = "", _LEAST
        for route, parts in self._routes.items():
            if abs(len(parts) - len(asked)) > 1:
                continue  # before what costs more: anybody may ask
            # What stands in the place of a parameter must not count: ids are longer than all the rest.
            there, here = list(parts), list(asked)
            for place, part in enumerate(parts):
                if part.startswith("{"):
                    there[place] = _ANYTHING
                    if place < len(here):
                        here[place] = _ANYTHING
            likeness = SequenceMatcher(None, "/".join(there), "/".join(here), autojunk=False)
            if likeness.real_quick_ratio() > best and likeness.quick_ratio() > best and likeness.ratio() > best:
                nearest, best = route, likeness.ratio()
        return nearest


def _parts(path: str) -> list[str]:
    return path.strip("/").split("/")
