"""How many screens of terminals are cached."""

from __future__ import annotations

import pytest

from mcp_server.terminals.screens import ScreenCache


@pytest.mark.parametrize(("size", "kept"), [((80, 24), 64), ((1000, 300), 3), ((1000, 1000), 1)])
def test_screens_of_large_terminals_give_way_sooner(size: tuple[int, int], kept: int) -> None:
    cache = ScreenCache()
    keys = [("sandbox", "machine", str(number)) for number in range(70)]
    for key in keys:
        cache.see(key).emulator.resize(*size)
        cache.trim()
    assert [key for key in keys if cache.get(key)] == keys[-kept:]


def test_a_screen_seen_again_stays() -> None:
    cache = ScreenCache(capacity=2)
    first, second, third = (("sandbox", "machine", name) for name in "abc")
    seen = cache.see(first)
    cache.see(second)
    assert cache.see(first) is seen
    cache.see(third)
    assert cache.get(first) is seen
    assert cache.get(second) is None
