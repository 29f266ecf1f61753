"""Dependencies: cycles, and levels of what can run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Needs = Mapping[str, Sequence[str]]
"""What each name depends on."""


def find_cycle(needs: Needs) -> tuple[str, ...]:
    """Return the names of a cycle, with the first again at the end; empty if there is none. Ignores unknown names."""
    done: set[str] = set()
    for start in needs:
        way: list[str] = []
        on_way: set[str] = set()
        ahead = [iter((start,))]
        while ahead:
            name = next(ahead[-1], None)
            if name is None:
                ahead.pop()
                if way:
                    done.add(last := way.pop())
                    on_way.remove(last)
            elif name in on_way:
                return (*way[way.index(name) :], name)
            elif name in needs and name not in done:
                way.append(name)
                on_way.add(name)
                ahead.append(iter(needs[name]))
    return ()


def levels(needs: Needs) -> list[list[str]]:
    """Return the names in levels: each depends only on names of levels before its own. There must be no cycle."""
    level_of: dict[str, int] = {}
    left = list(needs)
    while left:
        ready = [name for name in left if all(other in level_of for other in needs[name])]
        assert ready, "a cycle"
        level_of |= {name: 1 + max((level_of[other] for other in needs[name]), default=-1) for name in ready}
        left = [name for name in left if name not in level_of]
    found: list[list[str]] = [[] for _ in range(max(level_of.values(), default=-1) + 1)]
    for name in needs:
        found[level_of[name]].append(name)
    return found
