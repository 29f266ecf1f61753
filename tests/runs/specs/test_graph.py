"""Dependencies: circles and levels."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runs.specs.graph import find_cycle, levels

NAMES = [f"n{number}" for number in range(8)]
ANY = st.fixed_dictionaries({name: st.lists(st.sampled_from(NAMES), max_size=3) for name in NAMES})


@given(ANY)
def test_either_there_is_a_cycle_or_everything_has_a_level_above_what_it_needs(needs: dict[str, list[str]]) -> None:
    cycle = find_cycle(needs)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(after in needs[before] for before, after in pairwise(cycle))
    else:
        found = levels(needs)
        level_of = {name: number for number, names in enumerate(found) for name in names}
        assert sorted(level_of) == sorted(NAMES)
        for name, others in needs.items():
            assert level_of[name] == 1 + max((level_of[other] for other in others), default=-1)


def test_names_that_are_unknown_are_no_cycle() -> None:
    assert find_cycle({"a": ["b"], "c": ["a", "x"]}) == ()


def test_a_long_chain_is_no_problem() -> None:
    chain = {f"{number}": [f"{number + 1}"] for number in range(20_000)}
    assert find_cycle(chain) == ()
    assert len(find_cycle(chain | {"20000": ["0"]})) == 20_002


def test_levels_keep_the_order_of_the_file() -> None:
    assert levels({"d": [], "c": ["d"], "b": [], "a": ["d", "b"]}) == [["d", "b"], ["c", "a"]]
    assert levels({}) == []
