"""How many pictures of terminals are kept."""

from __future__ import annotations

import pytest

from mcp_server.terminals.screens import Pictures


@pytest.mark.parametrize(("size", "kept"), [((80, 24), 64), ((1000, 300), 3), ((1000, 1000), 1)])
def test_pictures_of_large_terminals_give_way_sooner(size: tuple[int, int], kept: int) -> None:
    pictures = Pictures()
    keys = [("sandbox", "machine", str(number)) for number in range(70)]
    for key in keys:
        pictures.see(key).emulator.resize(*size)
        pictures.trim()
    assert [key for key in keys if pictures.get(key)] == keys[-kept:]


def test_a_picture_seen_again_stays() -> None:
    pictures = Pictures(capacity=2)
    first, second, third = (("sandbox", "machine", name) for name in "abc")
    seen = pictures.see(first)
    pictures.see(second)
    assert pictures.see(first) is seen
    pictures.see(third)
    assert pictures.get(first) is seen
    assert pictures.get(second) is None
