"""The cache of good keys: bounded, short-lived, and never filled with what was read before a clearing."""

from __future__ import annotations

from auth.key_cache import LIFETIME_S, KeyCache


def test_the_least_recently_used_value_goes_first() -> None:
    cache = KeyCache[int](lambda: 0.0, capacity=2)
    for digest, value in (("a", 1), ("b", 2)):
        cache.put(digest, value, cache.ticket())
    assert cache.get("a") == 1
    cache.put("c", 3, cache.ticket())
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert len(cache) == 2


def test_the_lifetime_counts_from_before_the_read() -> None:
    now = [0.0]
    cache = KeyCache[int](lambda: now[0])
    ticket = cache.ticket()
    now[0] = LIFETIME_S - 1
    cache.put("a", 1, ticket)
    assert cache.get("a") == 1
    now[0] = LIFETIME_S
    assert cache.get("a") is None
    assert len(cache) == 0


def test_a_clearing_drops_what_is_there_and_what_is_being_read() -> None:
    cache = KeyCache[int](lambda: 0.0)
    cache.put("a", 1, cache.ticket())
    ticket = cache.ticket()
    cache.clear()
    cache.put("b", 2, ticket)
    assert len(cache) == 0
